"""Decomp-Reverse on a data set: are the selected heads of triggered pictures enough to carry the attack (table 3)?

Every clean picture's representation gets the contributions of those heads that are selected in its triggered version,
taken from there. Where the attack then succeeds, these heads carry it alone.

Example:
    >>> import clip_decomp
    >>> from defenses import DecompRep
    >>> model, data = clip_decomp.load("world/badnet"), clip_decomp.open_data("world", 64, test=26)
    >>> success, accuracy = reverse_rates(DecompRep().fit(model, data.held_out.first(50)), data.test, model.trigger)
    >>> success.count, accuracy.count
    (25, 26)
"""

from __future__ import annotations

import torch

from clip_decomp.attacks.triggers import Trigger
from clip_decomp.contributions import pictures
from clip_decomp.convention import PAPER
from clip_decomp.data.sets import BATCH_SIZE, ImageSet
from clip_decomp.errors import DataError
from clip_decomp.evaluation import Rate, rate
from clip_decomp.zeroshot import class_vectors, predict

from .decomp_rep import DecompRep


@torch.no_grad()
def reverse_rates(
    repair: DecompRep,
    data: ImageSet,
    trigger: Trigger,
    target: str | None = None,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> tuple[Rate, Rate]:
    """Shares of clean pictures, with heads of triggered ones, that are given the target and their own class.

    The former is of pictures whose class is not the target.

    Raises:
        DataError: no target class is known, or it is not among the classes.
    """
    name = target or data.target
    if name is None:
        raise DataError(f"{data.name}: no target class is known for the attack; name one of its classes.")
    goal, model = data.class_index(name), repair.model_
    vectors = class_vectors(model, data.class_names, data.templates)
    found, labels = [], []
    sides = zip(
        pictures(data, None, batch_size, "reversed" if progress else None),
        pictures(data, trigger, batch_size, None),
        strict=True,
    )
    for (clean, truth, _), (triggered, _, _) in sides:
        decompositions = (model.decompose(model.normalize(each), convention=PAPER) for each in (clean, triggered))
        found.append(predict(repair.reverse(*decompositions), vectors).cpu())
        labels.append(truth)
    classes, own = torch.cat(found), torch.cat(labels)
    foreign = own != goal
    taken, right = (classes == goal)[foreign], classes == own
    return rate(int(taken.sum()), len(taken)), rate(int(right.sum()), len(right))
