"""open_clip's own ``VisionTransformer``: class token, average before or behind the final norm, CoCa's attention pool.

Limits: blocks with norms on queries, scaled cosines or scaled heads, which no listed model has, and CoCa's parallel and
cascaded pools, which open_clip calls untested, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from open_clip.transformer import AttentionalPooler, LayerScale, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from ...errors import ModelError
from ..hooked_parts import HookedNorm
from ..pooling import AttentionPooled, HookedPool
from ..readouts import ClassToken, NormedThenPooled, ParameterOutput, PooledThenNormed, Readout
from .parts import AttentionParts, BlockParts, MLPParts, Packed, Projection, Scale, TowerParts, layer_norm


@dataclass(frozen=True)
class PackedMultihead(Packed):
    """``nn.MultiheadAttention`` with one input projection."""

    attention: nn.MultiheadAttention

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Its own."""
        return self.attention.in_proj_weight, self.attention.in_proj_bias


@dataclass(frozen=True)
class PoolQuery(Projection):
    """The first learned query of an ``AttentionalPooler``; keys and values are of the tokens."""

    pooler: AttentionalPooler

    def __call__(self, x: Tensor, rows: int | None = None) -> Sequence[Tensor]:
        """The same query for every image."""
        attention = self.pooler.attn
        weight, bias = attention.q_proj_weight, attention.in_proj_bias
        if weight is None:
            weight = attention.in_proj_weight[: attention.embed_dim]
        query = self.pooler.ln_q(self.pooler.query)[:1]
        q = F.linear(query, weight, None if bias is None else bias[: attention.embed_dim])
        return q.expand(x.shape[0], -1, -1), *self.keys_values(x)

    def keys_values(self, x: Tensor) -> Sequence[Tensor]:
        """One product each."""
        (k, k_bias), (v, v_bias) = self._maps()
        return F.linear(x, k, k_bias), F.linear(x, v, v_bias)

    def value_map(self) -> tuple[Tensor, Tensor | None]:
        """The values'."""
        return self._maps()[1]

    def _maps(self) -> list[tuple[Tensor, Tensor | None]]:
        attention = self.pooler.attn
        width, bias = attention.embed_dim, attention.in_proj_bias
        if attention.in_proj_weight is None:
            weights = attention.k_proj_weight, attention.v_proj_weight
        else:
            weights = attention.in_proj_weight[width : 2 * width], attention.in_proj_weight[2 * width :]
        return [
            (weight, None if bias is None else bias[(k + 1) * width : (k + 2) * width])
            for k, weight in enumerate(cast(tuple[Tensor, Tensor], weights))
        ]


class OpenCLIPParts(TowerParts):
    """See the module.

    Raises:
        ModelError: a block or readout of a kind that is refused, or no projection.
    """

    class_token = True
    n_prefix = 1

    def __init__(self, tower: VisionTransformer):
        self.tower = tower
        self.grid, self.image_size = tower.grid_size, tower.image_size
        self.d_model, self.d_embed = tower.conv1.out_channels, tower.output_dim
        self.pre_norm = layer_norm(tower.ln_pre, "ln_pre")
        self.blocks = [residual_block(each) for each in cast(Iterable[nn.Module], tower.transformer.resblocks)]
        self.readout = _readout(tower, self.n_tokens)

    def embed(self, images: Tensor) -> Tensor:
        """Class token and convolved patches."""
        x = self.tower.conv1(images.to(self.tower.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        start = self.tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([start, x], dim=1)

    def positions(self, x: Tensor) -> Tensor:
        """The same for every image."""
        return self.tower.positional_embedding.to(x.dtype).expand_as(x)

    def dropped(self, x: Tensor) -> Tensor:
        """open_clip's patch dropout."""
        return self.tower.patch_dropout(x)


def residual_block(block: nn.Module) -> BlockParts:
    """Parts of open_clip's standard block, of pictures or texts.

    Raises:
        ModelError: it is of another kind.
    """
    if not isinstance(block, ResidualAttentionBlock):
        raise ModelError(f"Blocks of type {type(block).__name__} are not supported yet; open_clip's standard ones are.")
    mlp = block.mlp
    return BlockParts(
        multihead(block.attn),
        MLPParts(mlp.c_fc, mlp.gelu, cast(nn.Linear, mlp.c_proj)),
        layer_norm(block.ln_1, "ln_1"),
        layer_norm(block.ln_2, "ln_2"),
        _scale(block.ls_1),
        _scale(block.ls_2),
    )


def multihead(attention: nn.MultiheadAttention, project: Projection | None = None) -> AttentionParts:
    """Parts of an ``nn.MultiheadAttention``, of self-attention unless something else projects.

    Raises:
        ModelError: it has a bias of its own for keys and values, or another order of axes.
    """
    if (project is None and attention.in_proj_weight is None) or attention.bias_k is not None:
        raise ModelError("Only self-attention with one input projection is supported: this tower has another kind.")
    if not attention.batch_first:
        raise ModelError("Only attention with the batch as its first axis is supported.")
    return AttentionParts(
        attention.num_heads, attention.head_dim, project or PackedMultihead(attention), attention.out_proj
    )


def _scale(module: nn.Module) -> Scale:
    return Scale(module) if isinstance(module, LayerScale) else Scale()


def _readout(tower: VisionTransformer, n_tokens: int) -> Readout:
    if tower.proj is None:
        raise ModelError("The image tower has no projection to the joint space.")
    output, last = ParameterOutput(tower), HookedNorm(layer_norm(tower.ln_post, "ln_post"))
    if tower.attn_pool is not None:
        if tower.attn_pool_contrastive is not None or tower.pool_type != "tok":
            kind = tower.attn_pool_type or f"pool_type={tower.pool_type!r}"
            raise ModelError(f"An attention pool of kind {kind} is not supported; CoCa's, read at one query, is.")
        pooler = cast(AttentionalPooler, tower.attn_pool)
        before = HookedNorm(layer_norm(pooler.ln_k, "ln_k"))
        pool = HookedPool(multihead(pooler.attn, PoolQuery(pooler)))
        return AttentionPooled(before, pool, output, norm_behind=last)
    if tower.pool_type == "tok":
        return ClassToken(last, output)
    if tower.pool_type == "avg":
        kind = PooledThenNormed if tower.final_ln_after_pool else NormedThenPooled
        return kind(last, output, 1, n_tokens)
    raise ModelError(f"A tower with pool_type={tower.pool_type!r} gives no single representation.")
