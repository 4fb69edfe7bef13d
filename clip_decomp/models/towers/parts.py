"""The parts of a vision transformer, whatever library it comes from.

An adapter names the library's own modules; :class:`~clip_decomp.models.hooked_vit.HookedViT` and
:class:`~clip_decomp.models.hooked_block.HookedBlock` compute over them. Nothing is copied: parts refer to modules, so
parameters that are trained, moved or replaced there are so here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import ModelError

if TYPE_CHECKING:
    from ..readouts import Readout


class Projection(ABC):
    """How an attention makes queries, keys and values."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "batch token d_model"], rows: int | None = None) -> Sequence[Tensor]:
        """Queries (of the first ``rows``), keys and values, heads side by side."""

    @abstractmethod
    def keys_values(self, x: Float[Tensor, "*axes d_model"]) -> Sequence[Tensor]:
        """Keys and values."""

    @abstractmethod
    def value_map(self) -> tuple[Float[Tensor, "heads_d_head d_model"], Float[Tensor, " heads_d_head"] | None]:
        """Weight and bias of values."""


class Packed(Projection):
    """One matrix for all three."""

    @abstractmethod
    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, queries first, then keys, then values."""

    def __call__(self, x: Tensor, rows: int | None = None) -> Sequence[Tensor]:
        """As they are asked for."""
        weight, bias = self.packed()
        if rows is None:
            return F.linear(x, weight, bias).chunk(3, dim=-1)
        width = len(weight) // 3
        q = F.linear(x[:, :rows], weight[:width], None if bias is None else bias[:width])
        return q, *self.keys_values(x)

    def keys_values(self, x: Tensor) -> Sequence[Tensor]:
        """The rest of the matrix."""
        weight, bias = self.packed()
        width = len(weight) // 3
        return F.linear(x, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)

    def value_map(self) -> tuple[Tensor, Tensor | None]:
        """The last third."""
        weight, bias = self.packed()
        width = len(weight) // 3
        return weight[2 * width :], None if bias is None else bias[2 * width :]


@dataclass(frozen=True)
class Separate(Projection):
    """Three linear maps."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear

    def __call__(self, x: Tensor, rows: int | None = None) -> Sequence[Tensor]:
        """As they are asked for."""
        return self.q(x[:, :rows]), *self.keys_values(x)

    def keys_values(self, x: Tensor) -> Sequence[Tensor]:
        """The latter two."""
        return self.k(x), self.v(x)

    def value_map(self) -> tuple[Tensor, Tensor | None]:
        """The last one's."""
        return self.v.weight, self.v.bias


class Rotary(ABC):
    """Rotary positions; tokens that have none, such as prompts, are left as they are."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "batch token head d_head"]) -> Float[Tensor, "batch token head d_head"]:
        """Queries or keys, turned."""


class ScoreBias(ABC):
    """What is added to attention scores."""

    @abstractmethod
    def __call__(self, rows: int, tokens: int) -> Float[Tensor, "1 head row token"]:
        """For the first rows; tokens that have no position, such as prompts, get nothing."""


@dataclass(frozen=True)
class AttentionParts:
    """An attention.

    Attributes:
        out: output projection.
        q_norm, k_norm: over every head's queries and keys, if there are any.
        inner: norm over the heads side by side before ``out``, if there is one.
    """

    n_heads: int
    d_head: int
    project: Projection
    out: nn.Linear
    q_norm: nn.Module | None = None
    k_norm: nn.Module | None = None
    rotary: Rotary | None = None
    bias: ScoreBias | None = None
    inner: nn.LayerNorm | None = None


@dataclass(frozen=True)
class MLPParts:
    """An MLP: ``out(norm(act(up(x))))``, or ``out(norm(act(up(x)) * linear(x)))`` where it is gated."""

    up: nn.Module
    act: nn.Module
    out: nn.Linear
    linear: nn.Module | None = None
    norm: nn.LayerNorm | None = None


@dataclass(frozen=True)
class Scale:
    """LayerScale: a parameter of a module by its name; 1 without a module."""

    owner: nn.Module | None = None
    name: str = "gamma"

    def __call__(self) -> Tensor | float:
        """What is multiplied."""
        return 1.0 if self.owner is None else getattr(self.owner, self.name)


@dataclass(frozen=True)
class BlockParts:
    """A residual block: ``x + scale1 * post1(attention(norm1(x)))``, then the same with the MLP.

    Attributes:
        norm1, norm2: before attention and MLP; identities where there are none.
        post1, post2: behind them, if there are any.
    """

    attention: AttentionParts
    mlp: MLPParts
    norm1: nn.LayerNorm | nn.Identity
    norm2: nn.LayerNorm | nn.Identity
    scale1: Scale = Scale()
    scale2: Scale = Scale()
    post1: nn.LayerNorm | None = None
    post2: nn.LayerNorm | None = None


class TowerParts(ABC):
    """A vision transformer. Tokens are ``n_prefix`` ones of its own (class token first, registers), then patches.

    Attributes:
        class_token: whether the first token is a class token.
        pre_norm: before the first block, an identity where there is none.
    """

    blocks: Sequence[BlockParts]
    readout: Readout
    pre_norm: nn.LayerNorm | nn.Identity
    n_prefix: int
    class_token: bool
    grid: tuple[int, int]
    image_size: tuple[int, int]
    d_model: int
    d_embed: int

    @abstractmethod
    def embed(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch token d_model"]:
        """Prefix and patches without positions."""

    @abstractmethod
    def positions(self, x: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch token d_model"]:
        """What is added to them."""

    def dropped(self, x: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch kept d_model"]:
        """What training leaves of the tokens: all of them unless the library says otherwise."""
        return x

    @property
    def n_tokens(self) -> int:
        """Prefix and patches."""
        return self.n_prefix + self.grid[0] * self.grid[1]


def layer_norm(module: nn.Module, where: str) -> nn.LayerNorm | nn.Identity:
    """A norm that a decomposition can pass.

    Raises:
        ModelError: it is no layer norm, or has no gain.
    """
    if isinstance(module, nn.Identity) or (isinstance(module, nn.LayerNorm) and module.weight is not None):
        return module
    raise ModelError(f"{where} is a {type(module).__name__}: only layer norms with a gain can be decomposed.")


def optional_norm(module: nn.Module, where: str) -> nn.LayerNorm | None:
    """The same, with None for an identity."""
    norm = layer_norm(module, where)
    return norm if isinstance(norm, nn.LayerNorm) else None


def zero_bias(linear: nn.Linear) -> Float[Tensor, " out"]:
    """A linear map's bias, zero where it has none."""
    return linear.bias if linear.bias is not None else torch.zeros_like(linear.weight[:, 0])
