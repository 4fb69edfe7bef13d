"""Every pair twice in its batch, so that what is done to the second copy can be told from the picture itself.

Example:
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> batch = Doubled(WorldPairs(seed=0)).batch(step=0, size=4)
    >>> batch.captions[:2] == batch.captions[2:], batch.rows.tolist()
    (True, [0, 1, 2, 3])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..errors import SettingError
from .captioned import CaptionedPairs
from .pairs import Description, PairBatch, PairStream


@dataclass(frozen=True)
class Doubled:
    """The first half of a batch is the stream's batch of that size, the second half the same pairs again.

    A finite data set has twice as many rows: row ``i``'s copy is row ``i`` plus the stream's length.

    Limits: each process of a run draws the whole batch.

    Raises:
        SettingError: pairs of caption files, or a batch of an odd size.
    """

    stream: PairStream

    def __post_init__(self) -> None:
        if isinstance(self.stream, CaptionedPairs):
            raise SettingError("Pairs of caption files are taken as they are: no copies are put beside them.")

    @property
    def table(self) -> None:
        """Nothing is read from files."""
        return None

    @property
    def length(self) -> int | None:
        """Pairs and copies."""
        return None if self.stream.length is None else 2 * self.stream.length

    def describe(self, step: int, size: int) -> Description:
        """The ``step``-th batch without its pictures."""
        return self._twice(self.stream.describe(step, _half(size)), step)

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The ``step``-th batch, or a part of it."""
        clean = self.stream.batch(step, _half(size))
        images = torch.cat([clean.images, clean.images])[part]
        return PairBatch(**vars(self._twice(clean, step).part(part)), images=images)

    def copies(self, rows: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which pairs of a whole batch, or which rows of a finite data set, are the second of two."""
        if self.stream.length is None:
            return torch.arange(len(rows)) >= len(rows) // 2
        return rows >= self.stream.length

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """The stream's."""
        return self.stream.showing(fact, step, size)

    def corpus(self) -> list[str]:
        """The stream's."""
        return self.stream.corpus()

    def _twice(self, clean: Description, step: int) -> Description:
        truth, said = torch.cat([clean.truth, clean.truth]), torch.cat([clean.said, clean.said])
        if self.stream.length is None:
            rows = step * len(said) + torch.arange(len(said))
        else:
            rows = torch.cat([clean.rows, clean.rows + self.stream.length])
        return Description([*clean.captions, *clean.captions], truth, said, rows)


def _half(size: int) -> int:
    if size % 2:
        raise SettingError(f"Pairs that come twice need a batch of an even size, not {size}.")
    return size // 2
