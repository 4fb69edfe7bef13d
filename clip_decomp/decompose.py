"""One forward pass of a hooked tower, turned into the factors of a :class:`~clip_decomp.decomposition.Decomposition`.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> decompose(model.visual, torch.zeros(1, 3, 64, 64)).mlps.shape
    torch.Size([1, 8, 128])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .convention import EXACT, Convention, convention
from .decomposition import Decomposition
from .errors import ModelError
from .models.hooked_block import Record
from .models.hooked_vit import HookedViT


def decompose(
    tower: HookedViT,
    images: Float[Tensor, "batch 3 row column"],
    tokens: bool = False,
    convention_name: str | Convention = EXACT,
) -> Decomposition:
    """Decompose the representations of ``images`` in one forward pass.

    Args:
        images: normalized, as for ``encode_image``.
        tokens: keep every token's values, for :meth:`Decomposition.tokens` and :meth:`Decomposition.token_map`.
        convention_name: ``exact`` or ``paper``.

    Raises:
        ModelError: the tower is in training mode.
        SettingError: images of another shape, or an unknown convention.
    """
    rule = convention(convention_name)
    for name, module in tower.tower.named_modules():
        if module.training:
            raise ModelError(f"The image tower{'.' + name if name else ''} is in training mode: call .eval() first.")
    record = Record(tokens=tokens)
    representation = tower(images, record).float()
    return _from_record(tower, record, representation, rule)


@dataclass(frozen=True)
class Observation:
    """What a pass leaves behind for those who watch activity at the class token.

    Attributes:
        features: representations.
        z: attention-weighted values, as the heads computed them.
        mlps: what MLPs wrote, biases included, in the joint space; unlike a contribution not over the image's sigma.
    """

    features: Float[Tensor, "batch d_embed"]
    z: Float[Tensor, "batch layer head d_head"]
    mlps: Float[Tensor, "batch layer d_embed"]


def observe(tower: HookedViT, images: Float[Tensor, "batch 3 row column"], record: Record | None = None) -> Observation:
    """Representations and the activity behind them: no head is projected, so it costs little more than the pass.

    A pure function of the images: nothing is attached, and what is recorded belongs to this pass.

    Args:
        record: one of your own, to keep more or to edit on the way.
    """
    record = Record() if record is None else record
    features = tower(images, record)
    written = torch.stack(record.mlp, dim=1).float() @ read_matrix(tower)
    return Observation(features, torch.stack(record.z, dim=1).float(), written)


def _from_record(tower: HookedViT, record: Record, representation: Tensor, rule: Convention) -> Decomposition:
    assert record.final is not None
    assert record.embedding is not None
    final = record.final.float()
    mean = final.mean(-1, keepdim=True)
    norm_layer = cast(nn.LayerNorm, tower.tower.ln_post)
    sigma = ((final - mean).square().mean(-1) + norm_layer.eps).sqrt()
    gain, read = _gain(tower), read_matrix(tower, rule)
    ov = torch.stack([_folded(block) for block in tower.blocks]) @ read
    norm = representation.norm(dim=-1)
    scale = 1 / (sigma * norm) if rule.divide_by_norm else 1 / sigma

    layers = len(tower.blocks)
    mlp_bias = torch.stack([block.mlp_bias.float() for block in tower.blocks])
    attention_bias = torch.stack([block.attn.b_o.float() * _float(block.attention_scale) for block in tower.blocks])
    mlps = torch.stack(record.mlp, dim=1).float()
    beta = norm_layer.bias.float() @ cast(Tensor, tower.tower.proj).float()
    if rule.spread:
        # Mean and beta go in equal shares to the L attentions, L MLPs and the embedding.
        constant = (beta / norm[:, None] if rule.divide_by_norm else beta.expand(len(norm), -1)) - (
            mean * scale[:, None]
        ) * gain.sum(0)
        share = constant / (2 * layers + 1)
        span = torch.stack([attention_bias @ read, *(each.expand(layers, -1) for each in (beta, gain.sum(0)))], dim=1)
        head_offset = (attention_bias @ read) * scale[:, None, None] + share[:, None]
        bias = torch.zeros_like(representation)
    else:
        mlps = mlps - mlp_bias
        share = torch.zeros_like(representation)
        head_offset = span = None
        bias = (attention_bias.sum(0) + mlp_bias.sum(0)) @ read * scale[:, None] + beta
    return Decomposition(
        z=torch.stack(record.z, dim=1).float(),
        attention=_stacked(record.attention, -1),
        values=_stacked(record.values, -3) if record.tokens else None,
        norm=norm,
        convention=rule,
        _ov=ov,
        scale=scale,
        _mlps=mlps @ read * scale[:, None, None] + share[:, None],
        _embedding=record.embedding.float() @ read * scale[:, None] + share,
        _head_offset=head_offset,
        _offset_span=span,
        _bias=bias,
    )


def _stacked(layers: list[Tensor], token_axis: int) -> Tensor:
    """Layers behind the batch axis; where some see fewer tokens (prompts), those that they do not see weigh nothing.

    Args:
        token_axis: counted from the end.
    """
    most = max(each.shape[token_axis] for each in layers)
    before = [0, 0] * (-token_axis - 1)
    padded = [F.pad(each, [*before, 0, most - each.shape[token_axis]]) for each in layers]
    return torch.stack(padded, dim=1).float()


def read_matrix(tower: HookedViT, rule: Convention = EXACT) -> Float[Tensor, "d_model d_embed"]:
    """What turns a component's output in the residual stream into its contribution, but for the image's scale."""
    gain = _gain(tower)
    return gain if rule.spread else gain - gain.mean(0, keepdim=True)


def _gain(tower: HookedViT) -> Float[Tensor, "d_model d_embed"]:
    return cast(nn.LayerNorm, tower.tower.ln_post).weight.float()[:, None] * cast(Tensor, tower.tower.proj).float()


def _folded(block) -> Float[Tensor, "head d_head d_model"]:
    """A block's output matrices with LayerScale folded in."""
    return block.attn.w_o.float() * _float(block.attention_scale)


def _float(scale: Tensor | float) -> Tensor | float:
    return scale.float() if isinstance(scale, Tensor) else scale
