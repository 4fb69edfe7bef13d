"""A few labelled pictures of every class, chosen by a seed.

Example:
    >>> few_shot(torch.tensor([0, 1, 0, 1, 1]), ["apple", "pear"], shots=2).shape
    torch.Size([4])
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from clip_decomp.errors import DataError, SettingError


def few_shot(
    labels: Int[Tensor, " image"],
    class_names: Sequence[str],
    shots: int | None,
    seed: int = 0,
    without: Sequence[str] = (),
) -> Int[Tensor, " chosen"]:
    """Places of ``shots`` pictures of every class, or of all pictures (None), ascending.

    Args:
        without: classes of which no picture is taken.

    Raises:
        SettingError: shots below 1, or an unknown class to leave out.
        DataError: labels out of range, or a class with fewer pictures than shots.
    """
    if shots is not None and shots < 1:
        raise SettingError(f"The number of shots must be 1 or more a class, not {shots}.")
    unknown = [name for name in without if name not in class_names]
    if unknown:
        raise SettingError(f"Classes to leave out must be among the data's: {unknown} are not.")
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise DataError(
            f"Labels must be in 0..{len(class_names) - 1} for {len(class_names)} classes, and are "
            + (f"in {int(labels.min())}..{int(labels.max())}." if len(labels) else "none at all.")
        )
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label, name in enumerate(class_names):
        places = (labels == label).nonzero()[:, 0]
        order = torch.randperm(
            len(places), generator=generator
        )  # drawn for every class: leaving one out moves no other
        if name in without:
            continue
        if len(places) < (shots or 1):
            raise DataError(f"Class {name!r} has {len(places)} pictures, and {shots or 1} are asked for.")
        chosen.append(places[order[:shots]])
    if len(chosen) < 2:
        raise DataError("Fewer than two classes are left to tell apart.")
    return torch.cat(chosen).sort().values
