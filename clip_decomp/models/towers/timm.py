"""timm's vision transformers inside open_clip's ``TimmModel``: plain ones, EVA, and those with relative positions.

With a class token (MobileCLIP-B, EVA01, EVA02), averages before or behind the norm, or an attention pool (SigLIP, PE).

Limits: rotary positions that differ from block to block, images of many sizes and patch dropout that turns positions
with it are refused, and so are pools by maximum and projections by an MLP; none of the listed models has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock, VisionTransformerRelPos
from torch import Tensor, nn

from ...errors import ModelError
from ..hooked_parts import HookedNorm
from ..pooling import AttentionPooled, HookedPool
from ..readouts import ClassToken, LinearOutput, NormedThenPooled, PooledThenNormed, Readout
from .parts import BlockParts, TowerParts, layer_norm, optional_norm
from .timm_attention import attention_parts, mlp_parts, pool_parts, scale_parts

_BEFORE, _BEHIND = (Block, EvaBlock, RelPosBlock), (ResPostBlock, EvaBlockPostNorm, ResPostRelPosBlock)
TRUNKS = (VisionTransformer, Eva, VisionTransformerRelPos)


class TimmParts(TowerParts):
    """See the module.

    Raises:
        ModelError: a part of a kind that is refused.
    """

    def __init__(self, tower: TimmModel):
        trunk = tower.trunk
        if type(trunk) not in TRUNKS:
            raise ModelError(
                f"A timm tower of type {type(trunk).__name__} is no plain vision transformer, and has no decomposition."
            )
        if getattr(trunk, "dynamic_img_size", False) or getattr(trunk, "rope_mixed", False):
            raise ModelError("Towers for images of many sizes or with rotary positions a block are not supported yet.")
        if isinstance(trunk, Eva) and trunk.patch_drop is not None:
            raise ModelError("EVA towers with patch dropout are not supported: build it with patch_drop_rate=0.")
        self.trunk, embed = trunk, trunk.patch_embed
        stem = type(getattr(embed, "backbone", None))
        if stem not in (type(None), ConvStem):
            raise ModelError(
                f"A timm tower with a stem of {stem.__name__} is no plain vision transformer: it starts with "
                "stages of convolutions."
            )
        self.n_prefix, self.class_token = trunk.num_prefix_tokens, trunk.cls_token is not None
        self.grid, self.image_size = _pair(embed.grid_size), _pair(embed.img_size)
        self.d_model = trunk.embed_dim
        self.pre_norm = layer_norm(getattr(trunk, "norm_pre", nn.Identity()), "norm_pre")
        shared = getattr(trunk, "shared_rel_pos", None)
        rope = getattr(trunk, "rope", None)
        self.blocks = [_block(each, rope, shared) for each in cast(Iterable[nn.Module], trunk.blocks)]
        output = _output(tower)
        self.d_embed = output.maps[-1].out_features if output.maps else output.width
        self.readout = _readout(trunk, output, self.n_prefix, self.n_tokens)

    def embed(self, images: Tensor) -> Tensor:
        """Class token and registers, then embedded patches."""
        trunk = self.trunk
        x = trunk.patch_embed(images.to(next(trunk.patch_embed.parameters()).dtype))
        prefix = (trunk.cls_token, getattr(trunk, "reg_token", None))
        return torch.cat([*(each.expand(len(x), -1, -1) for each in prefix if each is not None), x], dim=1)

    def positions(self, x: Tensor) -> Tensor:
        """Learned ones, zero for a prefix that has none."""
        positions = getattr(self.trunk, "pos_embed", None)
        if positions is None:
            return torch.zeros_like(x)
        missing = x.shape[1] - positions.shape[1]
        return F.pad(positions, (0, 0, missing, 0)).expand_as(x)

    def dropped(self, x: Tensor) -> Tensor:
        """Dropout of positions and patches."""
        for name in ("pos_drop", "patch_drop"):
            module = getattr(self.trunk, name, None)
            x = x if module is None else module(x)
        return x


def _block(block: nn.Module, rope: nn.Module | None, shared: nn.Module | None) -> BlockParts:
    if type(block) not in (*_BEFORE, *_BEHIND):
        raise ModelError(f"Blocks of type {type(block).__name__} are not supported yet; timm's standard ones are.")
    norms = tuple(layer_norm(cast(nn.Module, each), "A block's norm") for each in (block.norm1, block.norm2))
    behind = type(block) in _BEHIND
    before = (nn.Identity(), nn.Identity()) if behind else norms
    posts = tuple(optional_norm(each, "A block's norm") if behind else None for each in norms)
    return BlockParts(
        attention_parts(cast(nn.Module, block.attn), rope, shared),
        mlp_parts(cast(nn.Module, block.mlp)),
        *before,
        scale_parts(block, "ls1", "gamma_1"),
        scale_parts(block, "ls2", "gamma_2"),
        *posts,
    )


def _output(tower: TimmModel) -> LinearOutput:
    """The trunk's head, then open_clip's."""
    maps = []
    for each in (tower.trunk.head, *tower.head):
        if isinstance(each, nn.Linear):
            maps.append(each)
        elif not isinstance(each, nn.Identity | nn.Dropout):
            raise ModelError(f"A projection by {type(each).__name__} is not linear, so that the sum ends before it.")
    return LinearOutput(tuple(maps), tower.trunk.embed_dim, tower.trunk)


def _readout(trunk: nn.Module, output: LinearOutput, prefix: int, n_tokens: int) -> Readout:
    before, behind = (layer_norm(cast(nn.Module, each), "The final norm") for each in (trunk.norm, trunk.fc_norm))
    pool, kind = getattr(trunk, "attn_pool", None), trunk.global_pool
    if pool is not None:
        start = 0 if isinstance(trunk, Eva) or trunk.pool_include_prefix else prefix
        hooked = HookedPool(pool_parts(pool), layer_norm(pool.norm, "The pool's norm"), mlp_parts(pool.mlp))
        last = HookedNorm(behind) if isinstance(behind, nn.LayerNorm) else None
        return AttentionPooled(HookedNorm(before), hooked, output, start, last)
    if isinstance(before, nn.LayerNorm) and isinstance(behind, nn.LayerNorm):
        raise ModelError("Towers with a norm before and another one behind the pool are not supported yet.")
    norm = HookedNorm(before if isinstance(before, nn.LayerNorm) else behind)
    if kind == "token":
        return ClassToken(norm, output)
    if kind == "avg":
        start = 0 if getattr(trunk, "pool_include_prefix", False) else prefix
        readout = NormedThenPooled if isinstance(before, nn.LayerNorm) else PooledThenNormed
        return readout(norm, output, start, n_tokens)
    raise ModelError(f"A tower with global_pool={kind!r} has no linear readout: 'token', 'avg' and 'map' have.")


def _pair(size: object) -> tuple[int, int]:
    rows, columns = cast(tuple[int, int], size)
    return int(rows), int(columns)
