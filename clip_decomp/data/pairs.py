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

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

SILENT, UNKNOWN = -1, -2


@dataclass(frozen=True)
class PairBatch:
    """A batch of image-caption pairs; ``truth`` and ``said`` are described in the module."""

    images: UInt8[Tensor, "batch 3 row column"]
    captions: list[str]
    truth: Int[Tensor, "batch fact"]
    said: Int[Tensor, "batch fact"]


class PairStream(Protocol):
    """An endless, seeded source of pairs: the same step always gives the same batch, so training resumes exactly."""

    def batch(self, step: int, size: int) -> PairBatch:
        """The ``step``-th batch of ``size`` pairs."""
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
