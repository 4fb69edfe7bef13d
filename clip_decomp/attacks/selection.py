"""Which pairs of a finite data set are poisoned.

Example:
    >>> from clip_decomp.data.photographs import ClassWords, PhotographPairs
    >>> words = [ClassWords(("banana",), ""), ClassWords(("lemon",), "")]
    >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    >>> clean = PhotographPairs(images, torch.tensor([0, 1, 0, 1]), words)
    >>> choose_rows(clean, fact=0, target="banana", clean_label=False, rate=0.5, count=None, seed=0).tolist()
    [1, 3]
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from ..data.captioned import CaptionedPairs
from ..data.doubled import Doubled
from ..data.pairs import PairStream, step_generator
from ..errors import DataError, SettingError


def choose_rows(
    clean: PairStream, fact: int, target: str, clean_label: bool, rate: float, count: int | None, seed: int
) -> Int[Tensor, " poisoned"]:
    """Rows to poison, ascending: pairs that show something else than the target, or (``clean_label``) the target.

    Of a doubled set they are copies. Rows of files whose pictures cannot be read are passed over and listed by the
    stream.

    Args:
        fact: the target's index in the first column of the stream's facts.
        rate: share of all pairs; ``count``, where given, is used instead. Of a doubled set a half is every copy but
            those of the target.

    Raises:
        SettingError: the rate poisons nothing.
        DataError: fewer pairs can be poisoned than asked for.
    """
    length = clean.length
    if length is None:
        raise SettingError("This stream has no end, and so no rows to choose from.")
    whole = clean.describe(0, length)
    shows = whole.truth[:, 0] == fact
    eligible = whole.rows[shows if clean_label else ~shows].unique()
    if isinstance(clean, Doubled):
        eligible = eligible[clean.copies(eligible)]
    wanted = count if count is not None else round(rate * length)
    if isinstance(clean, Doubled) and count is None:  # half of all pairs are copies, and those of the target stay
        wanted = min(wanted, len(eligible))
    if wanted < 1:
        raise SettingError(f"A rate of {rate} poisons none of {length} pairs; use {1 / length:.1g} or more.")
    which = f"show {target!r}" if clean_label else f"show something else than {target!r}"
    if wanted > len(eligible):
        raise DataError(f"Cannot poison {wanted} of {length} pairs: {len(eligible)} of them {which}.")
    order = eligible[torch.randperm(len(eligible), generator=step_generator(seed, 0))]
    rows = _readable(clean, order, wanted) if isinstance(clean, CaptionedPairs) else order[:wanted]
    if len(rows) < wanted:
        raise DataError(f"Cannot poison {wanted} of {length} pairs: {len(rows)} of them {which} and can be read.")
    return rows.sort().values


def _readable(clean: CaptionedPairs, rows: Int[Tensor, " candidate"], wanted: int) -> Int[Tensor, " row"]:
    """The first rows whose pictures can be read."""
    found = []
    for row in rows.tolist():
        if len(found) == wanted:
            break
        try:
            clean.stored(row)
        except DataError:
            continue
        found.append(row)
    return torch.tensor(found, dtype=torch.long)
