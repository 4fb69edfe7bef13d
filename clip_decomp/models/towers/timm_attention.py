"""Attentions and MLPs of timm as parts: packed or separate projections, rotary and relative positions, gated MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention, AttentionRope
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp, SwiGLU
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn

from ...errors import ModelError
from .parts import (
    AttentionParts,
    MLPParts,
    Packed,
    Projection,
    Rotary,
    Scale,
    ScoreBias,
    Separate,
    optional_norm,
)


@dataclass(frozen=True)
class PackedLinear(Packed):
    """One linear map for all three."""

    linear: nn.Linear

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Its own."""
        return self.linear.weight, self.linear.bias


@dataclass(frozen=True)
class PackedEva(Packed):
    """EVA's: keys have no bias that is learned."""

    attention: EvaAttention

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Biases side by side, the keys' all zero."""
        own = self.attention
        weight = cast(nn.Linear, own.qkv).weight
        if own.q_bias is None:
            return weight, None
        return weight, torch.cat([own.q_bias, cast(Tensor, own.k_bias), cast(Tensor, own.v_bias)])


@dataclass(frozen=True)
class Latent(Projection):
    """The learned query of a pool; keys and values are of the tokens."""

    pool: AttentionPoolLatent

    def __call__(self, x: Tensor, rows: int | None = None) -> Sequence[Tensor]:
        """The same query for every image."""
        return self.pool.q(self.pool.latent.expand(len(x), -1, -1)), *self.keys_values(x)

    def keys_values(self, x: Tensor) -> Sequence[Tensor]:
        """One product."""
        return self.pool.kv(x).chunk(2, dim=-1)

    def value_map(self) -> tuple[Tensor, Tensor | None]:
        """The second half."""
        width, bias = len(self.pool.kv.weight) // 2, self.pool.kv.bias
        return self.pool.kv.weight[width:], None if bias is None else bias[width:]


class _Turns(Protocol):
    """timm's rotary embeddings of the patches."""

    def get_embed(self) -> Tensor:
        """Sines and cosines, a row a patch."""
        ...


class _Biases(Protocol):
    """timm's relative positions."""

    def get_bias(self) -> Tensor:
        """A bias for every head and pair of places."""
        ...


@dataclass(frozen=True)
class PatchRotary(Rotary):
    """Rotary positions of the patches; what is before and after them has none."""

    rope: _Turns
    prefix: int
    half: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Of the tokens that are there: a part of them may not have been asked for."""
        if x.shape[1] <= self.prefix:
            return x
        turns = self.rope.get_embed()
        patches = x[:, self.prefix : self.prefix + len(turns)]
        turned = apply_rot_embed_cat(patches, turns[: patches.shape[1], None], half=self.half).to(x.dtype)
        return torch.cat([x[:, : self.prefix], turned, x[:, self.prefix + len(turns) :]], dim=1)


@dataclass(frozen=True)
class RelativeBias(ScoreBias):
    """A bias for every pair of places."""

    positions: _Biases

    def __call__(self, rows: int, tokens: int) -> Tensor:
        """Prompts, which come last, get none."""
        bias = self.positions.get_bias()
        known = bias.shape[-1]
        bias = F.pad(bias, (0, max(0, tokens - known), 0, max(0, rows - known)))
        return bias[:, :, :rows]


def attention_parts(
    attention: nn.Module, rope: nn.Module | None = None, shared_bias: nn.Module | None = None
) -> AttentionParts:
    """Parts of a block's attention.

    Raises:
        ModelError: a kind whose sum of contributions has another form.
    """
    if type(attention) not in (Attention, RelPosAttention, EvaAttention, AttentionRope):
        raise ModelError(f"Attention of type {type(attention).__name__} is not supported yet; timm's plain kinds are.")
    if getattr(attention, "gate", None) is not None or getattr(attention, "num_kv_groups", 1) > 1:
        raise ModelError(f"{type(attention).__name__} with gates or shared keys is not supported yet.")
    positions = getattr(attention, "rel_pos", None) or shared_bias
    turned = cast(_Turns, rope) if rope and isinstance(attention, EvaAttention | AttentionRope) else None
    return AttentionParts(
        cast(int, attention.num_heads),
        cast(int, attention.head_dim),
        _projection(attention),
        cast(nn.Linear, attention.proj),
        _or_none(attention.q_norm),
        _or_none(attention.k_norm),
        None if turned is None else PatchRotary(turned, cast(int, attention.num_prefix_tokens), _half(attention)),
        None if positions is None else RelativeBias(cast(_Biases, positions)),
        optional_norm(cast(nn.Module, getattr(attention, "norm", nn.Identity())), "The norm inside attention"),
    )


def pool_parts(pool: nn.Module) -> AttentionParts:
    """Parts of a pool's attention.

    Raises:
        ModelError: a kind with several queries or positions of its own.
    """
    if type(pool) is not AttentionPoolLatent:
        raise ModelError(f"An attention pool of type {type(pool).__name__} is not supported yet.")
    if pool.latent_len != 1 or pool.pos_embed is not None or not isinstance(pool.proj, nn.Linear):
        raise ModelError("An attention pool with several queries, positions or no output projection is not supported.")
    return AttentionParts(
        pool.num_heads, pool.head_dim, Latent(pool), pool.proj, _or_none(pool.q_norm), _or_none(pool.k_norm)
    )


def mlp_parts(mlp: nn.Module) -> MLPParts:
    """Parts of an MLP.

    Raises:
        ModelError: another kind than ``Mlp`` and ``SwiGLU``.
    """
    if type(mlp) is Mlp and isinstance(mlp.fc1, nn.Linear):
        return MLPParts(
            mlp.fc1, mlp.act, cast(nn.Linear, mlp.fc2), norm=optional_norm(mlp.norm, "The norm inside the MLP")
        )
    if type(mlp) is SwiGLU:
        return MLPParts(mlp.fc1_g, mlp.act, mlp.fc2, mlp.fc1_x, optional_norm(mlp.norm, "The norm inside the MLP"))
    raise ModelError(f"MLPs of type {type(mlp).__name__} are not supported yet; timm's Mlp and SwiGLU are.")


def scale_parts(block: nn.Module, module: str, parameter: str) -> Scale:
    """LayerScale, which is a module in some blocks and a parameter in others."""
    found = getattr(block, module, None)
    if isinstance(found, LayerScale):
        return Scale(found)
    return Scale() if getattr(block, parameter, None) is None else Scale(block, parameter)


def _projection(attention: nn.Module) -> Projection:
    if attention.qkv is None:
        return Separate(*(cast(nn.Linear, getattr(attention, f"{name}_proj")) for name in "qkv"))
    return PackedEva(attention) if isinstance(attention, EvaAttention) else PackedLinear(cast(nn.Linear, attention.qkv))


def _half(attention: nn.Module) -> bool:
    return bool(getattr(attention, "rotate_half", False))


def _or_none(module: object) -> nn.Module | None:
    return None if isinstance(module, nn.Identity) else cast(nn.Module, module)
