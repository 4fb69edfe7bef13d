"""Mean-ablation: replace components by their mean over held-out clean images and see what the model still does.

Schemes, as in He et al. (2025), figure 2: ``forward`` ablates layers 0..l, ``backward`` layers l..L-1, ``separate``
layer l alone. Components: every head of a layer, its MLP, or the whole layer (its heads and its MLP).

Two different questions can be asked. The *direct* effect edits the sum of contributions: what do these components write
into the representation themselves? The *total* effect patches the activations (at every token) and runs the rest of the
tower: what depends on them? The papers' figures show the direct effect.

With one cached decomposition a direct sweep over all layers is a prefix sum; a total sweep runs the tower once a point.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> data = open_data("world", 64, test=60)
    >>> model = clip_decomp.load("world/badnet")
    >>> sweep = mean_ablation(model, data.test, data.held_out, model.trigger, over="heads", scheme="separate")
    >>> len(sweep.attack_success_rate), sweep.effect
    (8, 'direct')
"""

from __future__ import annotations

from ..attacks.triggers import Trigger
from ..contributions import collect
from ..convention import EXACT, Convention
from ..data.sets import ImageSet
from ..errors import SettingError
from ..model import HookedCLIP
from ..zeroshot import sided_vectors
from .direct import direct_ablation, direct_sweeps
from .heads import HeadAblation, head_ablation
from .result import AblationResult, Component, Effect, Scheme, check
from .total import activation_means, total_ablation

__all__ = [
    "AblationResult",
    "HeadAblation",
    "activation_means",
    "direct_ablation",
    "direct_sweeps",
    "head_ablation",
    "mean_ablation",
    "total_ablation",
]


def mean_ablation(
    model: HookedCLIP,
    data: ImageSet,
    held_out: ImageSet,
    trigger: Trigger,
    target: str | None = None,
    over: Component = "heads",
    scheme: Scheme = "forward",
    effect: Effect = "direct",
    convention: str | Convention = EXACT,
) -> AblationResult:
    """Ablate components layer by layer and measure clean accuracy and attack success.

    For several direct sweeps over the same images compute the contributions once
    (:func:`clip_decomp.contributions.collect`) and call :func:`direct_ablation`.

    Args:
        data: test images; ``held_out``: clean images the means are taken from.
        target: the attack's target class, the data set's by default.
        convention: of direct contributions; total effects have none.

    Raises:
        SettingError: an unknown component, scheme or effect, or no target.
        DataError: the target is not among the classes.
    """
    name = target or data.target
    if name is None:
        raise SettingError(f"{data.name} has no target class: name one.")
    goal = data.class_index(name)
    check(over, scheme, goal, len(data.class_names))
    vectors = sided_vectors(model, data, trigger)
    if effect == "direct":
        means = collect(model, held_out, rule=convention).means()
        clean, triggered = (collect(model, data, each, convention) for each in (None, trigger))
        return direct_ablation(clean, triggered, means, vectors, goal, over, scheme)
    if effect == "total":
        return total_ablation(model, data, trigger, activation_means(model, held_out), vectors, goal, over, scheme)
    raise SettingError(f"Effects are direct and total, not {effect!r}.")
