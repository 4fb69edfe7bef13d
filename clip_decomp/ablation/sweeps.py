"""All nine sweeps (heads, MLPs, layers; forward, backward, separate) over one set of images."""

from __future__ import annotations

from tqdm import tqdm

from ..attacks.triggers import Trigger
from ..contributions import collect
from ..data.sets import ImageSet
from ..model import HookedCLIP
from ..zeroshot import sided_vectors
from .direct import CASES, direct_sweeps
from .result import AblationResult, Effect
from .total import activation_means, total_ablation


def sweeps(
    model: HookedCLIP,
    data: ImageSet,
    held_out: ImageSet,
    trigger: Trigger,
    target: str,
    effect: Effect = "direct",
    progress: bool = False,
) -> list[AblationResult]:
    """Every component under every scheme; direct sweeps share one decomposition of the images.

    Args:
        held_out: clean images the means are taken from.
    """
    goal, vectors = data.class_index(target), sided_vectors(model, data, trigger)
    if effect == "direct":
        label = "decompose" if progress else None
        means = collect(model, held_out, progress=label).means()
        clean, triggered = (collect(model, data, each, progress=label) for each in (None, trigger))
        return direct_sweeps(clean, triggered, means, vectors, goal)
    means = activation_means(model, held_out)
    return [
        total_ablation(model, data, trigger, means, vectors, goal, *case)
        for case in tqdm(CASES, desc="total effect", disable=not progress, leave=False)
    ]
