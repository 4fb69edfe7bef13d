"""The parts of a text transformer, whatever library it comes from.

As with pictures (:mod:`clip_decomp.models.towers.parts`), an adapter names the library's own modules and
:class:`~clip_decomp.models.hooked_text.HookedText` computes over them. A text is read at one position: its end, the
last position, the first, or a class token behind all others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..readouts import Output
from ..towers.parts import BlockParts


class TextParts(ABC):
    """A text transformer.

    Attributes:
        norm: before the projection.
        output: the projection.
        table: embeddings of token ids.
        ends: whether nothing behind the longest text's end can matter, so that it can be left out.
    """

    blocks: Sequence[BlockParts]
    norm: nn.LayerNorm | nn.Identity
    output: Output
    table: nn.Embedding
    ends: bool

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What the tower computes in."""

    @property
    @abstractmethod
    def modules(self) -> Iterable[nn.Module]:
        """All modules of the tower."""

    @property
    @abstractmethod
    def weights(self) -> Iterable[nn.Parameter]:
        """All parameters of the tower."""

    @abstractmethod
    def places(self, tokens: Int[Tensor, "text position"]) -> Int[Tensor, " text"]:
        """The position that is read."""

    @abstractmethod
    def positions(self, x: Float[Tensor, "text position d_model"]) -> Float[Tensor, "1 position d_model"]:
        """What is added to embeddings."""

    @abstractmethod
    def mask(self, tokens: Int[Tensor, "text position"], length: int) -> Float[Tensor, "_ 1 row position"] | None:
        """What is added to attention scores: 0, or minus infinity where a position is not seen."""

    @abstractmethod
    def plain(self, tokens: Int[Tensor, "text position"]) -> Float[Tensor, "text d_embed"]:
        """Representations by the library itself; of towers where :attr:`ends` holds, contexts may be short."""

    def extended(self, x: Float[Tensor, "text position d_model"]) -> Float[Tensor, "text position d_model"]:
        """Embeddings with what the tower adds to them: nothing unless the library says otherwise."""
        return x

    def causal(self, length: int) -> Float[Tensor, "1 1 length length"]:
        """The mask by which a position sees itself and those before it."""
        weight = self.table.weight
        return torch.full((1, 1, length, length), float("-inf"), device=weight.device, dtype=self.dtype).triu_(1)
