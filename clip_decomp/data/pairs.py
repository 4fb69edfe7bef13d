"""Image-caption pairs for contrastive training.

A pair says what its picture shows (``truth``) and what its caption claims (``said``), as indices into the same list of
facts, so that a batch knows every caption that is true of every picture: two pictures of a banana are both positives
of "a photo of a banana". Facts a caption is silent about are -1 and match anything; facts nobody knows are -2 and match
nothing.

Example:
    >>> said = torch.tensor([[3, -1], [4, 1]])
    >>> matches(torch.tensor([[3, 0], [4, 1]]), said).tolist()
    [[True, False], [False, True]]
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from ..errors import DataError

if TYPE_CHECKING:
    from .captioned.table import CaptionTable

SILENT, UNKNOWN = -1, -2


@dataclass(frozen=True)
class Description:
    """A batch without its pictures: cheap, so that every process of a run can know all pairs of a step.

    Attributes:
        captions: one a pair.
        truth, said: as the module describes them.
        rows: a number for each pair: its row in a finite data set, ``step * size + place`` in an endless stream.
        poisoned: which pairs an attacker changed; None where nobody did.
    """

    captions: list[str]
    truth: Int[Tensor, "batch fact"]
    said: Int[Tensor, "batch fact"]
    rows: Int[Tensor, " batch"]
    poisoned: Bool[Tensor, " batch"] | None = field(default=None, kw_only=True)

    def part(self, part: slice) -> Description:
        """Some of the pairs."""
        poisoned = None if self.poisoned is None else self.poisoned[part]
        return Description(self.captions[part], self.truth[part], self.said[part], self.rows[part], poisoned=poisoned)


@dataclass(frozen=True)
class PairBatch(Description):
    """A batch of image-caption pairs."""

    images: UInt8[Tensor, "batch 3 row column"]


class PairStream(Protocol):
    """A seeded source of pairs without an end: the same step always gives the same batch, so training resumes exactly.

    Attributes:
        length: pairs of a finite data set, which is passed over again and again; None where every pair is new.
        table: where pictures that cannot be read are listed, if pairs are read from files.
    """

    @property
    def length(self) -> int | None: ...

    @property
    def table(self) -> CaptionTable | None: ...

    def describe(self, step: int, size: int) -> Description:
        """The ``step``-th batch of ``size`` pairs, without its pictures."""
        ...

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The pairs of that batch that lie in ``part``, with their pictures."""
        ...

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """A seeded batch whose pictures all show class ``fact`` (of the first column of facts), with true captions.

        Raises:
            DataError: there are no such pictures.
        """
        ...

    def corpus(self) -> list[str]:
        """Captions that between them use every word of the stream, for training a tokenizer."""
        ...


def matches(truth: Int[Tensor, "image fact"], said: Int[Tensor, "caption fact"]) -> Bool[Tensor, "image caption"]:
    """Whether each caption is true of each picture."""
    return ((said[None] == truth[:, None]) | (said[None] == SILENT)).all(-1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator that depends on seed and step alone."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class FirstPairs:
    """The first pairs of a stream, kept in memory and passed over again and again in another order: a finite budget.

    Limits: pictures are kept decoded and as they were cropped, 150 KB each at 224 pixels.

    Args:
        count: how many.

    Raises:
        DataError: the stream has fewer.
    """

    def __init__(self, stream: PairStream, count: int, seed: int = 0):
        if stream.length is not None and stream.length < count:
            raise DataError(f"There are {stream.length} pairs, and {count} are asked for.")
        self.stream, self.seed, self._kept = stream, seed, stream.batch(0, count)

    @property
    def table(self) -> None:
        """Nothing is read any more."""
        return None

    @property
    def length(self) -> int:
        """Pairs of a pass."""
        return len(self._kept.captions)

    def describe(self, step: int, size: int) -> Description:
        """The ``step``-th batch without its pictures."""
        rows, kept = self._rows(step, size), self._kept
        return Description([kept.captions[row] for row in rows.tolist()], kept.truth[rows], kept.said[rows], rows)

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The ``step``-th batch, or a part of it."""
        described = self.describe(step, size).part(part)
        return PairBatch(**vars(described), images=self._kept.images[described.rows])

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """Pictures of one class, of the whole stream's."""
        return self.stream.showing(fact, step, size)

    def corpus(self) -> list[str]:
        """The kept captions."""
        return self._kept.captions

    def digest(self) -> str:
        """SHA-256 of pictures and captions."""
        found = hashlib.sha256("\n".join(self._kept.captions).encode())
        found.update(self._kept.images.contiguous().numpy().tobytes())
        return found.hexdigest()

    def _rows(self, step: int, size: int) -> Int[Tensor, " batch"]:
        found, first = [], step * size
        while first < (step + 1) * size:
            epoch, place = divmod(first, self.length)
            order = torch.randperm(self.length, generator=step_generator(self.seed, epoch))
            found.append(order[place : place + (step + 1) * size - first])
            first += len(found[-1])
        return torch.cat(found)
