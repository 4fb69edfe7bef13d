r"""The representation of an image as an exact sum of direct contributions.

With the final layer norm's sigma taken as given, the output of a class-token tower is linear in the class token's
residual stream, and the stream is a sum (Elhage et al. 2021, Gandelsman et al. 2024):

.. math::  R = \mathrm{embedding} + \sum_{l,h} \mathrm{head}_{l,h} + \sum_l \mathrm{mlp}_l + \mathrm{bias}

A head is a sum over tokens, :math:`\mathrm{head}_{l,h} = \sum_n a^{l,h}_n\, v^{l,h}_n W_O^{l,h} W_{read} / \sigma` with
:math:`W_{read} = (I - 11^T/d)\,\mathrm{diag}(\gamma)\,P`. Only the factors are kept; contributions are projected when
they are asked for. ``bias`` holds everything constant: output biases of attention and MLPs, and :math:`\beta P`.

Limits: direct contributions say nothing about what a component does through later layers (see
:mod:`clip_decomp.ablation` for both questions). Hooks on ``hook_z``, ``hook_mlp_out``, q, k, v and patterns are part of
the sum; hooks that *edit* the residual stream between blocks, ``hook_attn_out``, ``hook_result`` or the final norm are
not components and break it.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> dec = model.decompose(torch.zeros(2, 3, 64, 64))
    >>> tuple(dec.heads.shape), torch.allclose(dec.sum(), model.encode_image(torch.zeros(2, 3, 64, 64)), atol=1e-5)
    ((2, 8, 12, 128), True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .convention import EXACT, Convention, convention
from .errors import ModelError, SettingError
from .models.hooked_block import Record
from .models.hooked_vit import HookedViT


@dataclass(frozen=True)
class Decomposition:
    """Direct contributions of a batch of images, kept as factors.

    Attributes:
        z: attention-weighted values of the class token's row.
        attention: the class token's attention row of every head.
        values: values of every token, or None without ``tokens=True``.
        norm: norm of the representation of every image.
        convention: how constants are treated; see :mod:`clip_decomp.convention`.
    """

    z: Float[Tensor, "batch layer head d_head"]
    attention: Float[Tensor, "batch layer head token"]
    values: Float[Tensor, "batch layer token head d_head"] | None
    norm: Float[Tensor, " batch"]
    convention: Convention
    _ov: Float[Tensor, "layer head d_head d_embed"]
    _scale: Float[Tensor, " batch"]
    _mlps: Float[Tensor, "batch layer d_embed"]
    _embedding: Float[Tensor, "batch d_embed"]
    _head_offset: Float[Tensor, "batch layer d_embed"] | None
    _bias: Float[Tensor, "batch d_embed"]

    def __len__(self) -> int:
        return len(self.z)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.z.shape[1]

    @property
    def n_heads(self) -> int:
        """Heads a layer."""
        return self.z.shape[2]

    @cached_property
    def heads(self) -> Float[Tensor, "batch layer head d_embed"]:
        """Contribution of every head."""
        result = torch.einsum("blhd,lhde->blhe", self.z * self._scale[:, None, None, None], self._ov)
        return result if self._head_offset is None else result + self._head_offset[:, :, None] / self.n_heads

    @property
    def mlps(self) -> Float[Tensor, "batch layer d_embed"]:
        """Contribution of every MLP."""
        return self._mlps

    @property
    def embedding(self) -> Float[Tensor, "batch d_embed"]:
        """Contribution of the class token as it enters the first block."""
        return self._embedding

    @property
    def bias(self) -> Float[Tensor, "batch d_embed"]:
        """Everything constant; zero under ``convention="paper"``, which spreads it over the rest."""
        return self._bias

    @cached_property
    def attentions(self) -> Float[Tensor, "batch layer d_embed"]:
        """Contribution of every layer's attention: its heads summed, without materializing them."""
        result = torch.einsum("blhd,lhde->ble", self.z * self._scale[:, None, None, None], self._ov)
        return result if self._head_offset is None else result + self._head_offset

    def sum(self, normalize: bool = False) -> Float[Tensor, "batch d_embed"]:
        """The representation: all contributions added up (divided by the norm under ``convention="paper"``)."""
        total = self.embedding + self.attentions.sum(1) + self.mlps.sum(1) + self.bias
        return torch.nn.functional.normalize(total, dim=-1) if normalize else total

    def toward(self, text_features: Float[Tensor, "text d_embed"]) -> Float[Tensor, "batch layer head text"]:
        """Projection of every head's contribution on each text, without materializing contributions.

        Args:
            text_features: of any norm; unit norm for cosines.
        """
        text = self._texts(text_features)
        folded = torch.einsum("lhde,te->lhdt", self._ov, text)
        result = torch.einsum("blhd,lhdt->blht", self.z * self._scale[:, None, None, None], folded)
        if self._head_offset is not None:
            result = result + (self._head_offset @ text.T)[:, :, None] / self.n_heads
        return result

    def tokens(self, layer: int, head: int) -> Float[Tensor, "batch token d_embed"]:
        """What each token sends through one head; sums to the head's contribution.

        Raises:
            SettingError: decomposed without ``tokens=True``, or no such layer or head.
        """
        self._check(layer, head)
        weighted = self._weighted(layer, head)
        result = weighted @ self._ov[layer, head]
        if self._head_offset is not None:
            share = self._head_offset[:, layer] / (self.n_heads * weighted.shape[1])
            result = result + share[:, None]
        return result

    def token_map(
        self,
        text_features: Float[Tensor, "text d_embed"],
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch layer head token text"]:
        """How much each token, through each head, pushes toward each text.

        Args:
            layers: the layers to return, all by default.
            heads: the heads to return, all by default.

        Raises:
            SettingError: decomposed without ``tokens=True``, or no such layer or head.
        """
        text = self._texts(text_features)
        layers = range(self.n_layers) if layers is None else layers
        heads = range(self.n_heads) if heads is None else heads
        for layer in layers:
            for head in heads:
                self._check(layer, head)
        rows = []
        for layer in layers:
            columns = []
            for head in heads:
                weighted = self._weighted(layer, head)
                toward = weighted @ (self._ov[layer, head] @ text.T)
                if self._head_offset is not None:
                    share = self._head_offset[:, layer] @ text.T / (self.n_heads * weighted.shape[1])
                    toward = toward + share[:, None]
                columns.append(toward)
            rows.append(torch.stack(columns, dim=1))
        return torch.stack(rows, dim=1)

    def _weighted(self, layer: int, head: int) -> Float[Tensor, "batch token d_head"]:
        if self.values is None:
            raise SettingError("Token contributions were not kept: call decompose(images, tokens=True).")
        weights = self.attention[:, layer, head] * self._scale[:, None]
        return weights[..., None] * self.values[:, layer, :, head]

    def _check(self, layer: int, head: int) -> None:
        if not -self.n_layers <= layer < self.n_layers or not -self.n_heads <= head < self.n_heads:
            raise SettingError(
                f"There is no head L{layer}H{head}: this tower has {self.n_layers} layers of {self.n_heads} heads."
            )

    def _texts(self, text_features: Tensor) -> Tensor:
        if text_features.ndim != 2 or text_features.shape[1] != self._ov.shape[-1]:
            raise SettingError(f"Text features must be [text, {self._ov.shape[-1]}], not {list(text_features.shape)}.")
        return text_features.to(self._ov)


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


def _from_record(tower: HookedViT, record: Record, representation: Tensor, rule: Convention) -> Decomposition:
    assert record.final is not None
    assert record.embedding is not None
    norm_layer = cast(nn.LayerNorm, tower.tower.ln_post)
    projection = cast(Tensor, tower.tower.proj).float()
    final = record.final.float()
    mean = final.mean(-1, keepdim=True)
    sigma = ((final - mean).square().mean(-1) + norm_layer.eps).sqrt()
    gain = norm_layer.weight.float()[:, None] * projection
    read = gain if rule.spread else gain - gain.mean(0, keepdim=True)
    ov = torch.stack([_folded(block) for block in tower.blocks]) @ read
    norm = representation.norm(dim=-1)
    scale = 1 / (sigma * norm) if rule.divide_by_norm else 1 / sigma

    layers = len(tower.blocks)
    mlp_bias = torch.stack([block.mlp_bias.float() for block in tower.blocks])
    attention_bias = torch.stack([block.attn.b_o.float() * _float(block.attention_scale) for block in tower.blocks])
    mlps = torch.stack(record.mlp, dim=1).float()
    beta = norm_layer.bias.float() @ projection
    if rule.spread:
        # Mean and beta go in equal shares to the L attentions, L MLPs and the embedding.
        constant = (beta / norm[:, None] if rule.divide_by_norm else beta.expand(len(norm), -1)) - (
            mean * scale[:, None]
        ) * gain.sum(0)
        share = constant / (2 * layers + 1)
        head_offset = (attention_bias @ read) * scale[:, None, None] + share[:, None]
        bias = torch.zeros_like(representation)
    else:
        mlps = mlps - mlp_bias
        share = torch.zeros_like(representation)
        head_offset = None
        bias = (attention_bias.sum(0) + mlp_bias.sum(0)) @ read * scale[:, None] + beta
    return Decomposition(
        z=torch.stack(record.z, dim=1).float(),
        attention=torch.stack(record.attention, dim=1).float(),
        values=torch.stack(record.values, dim=1).float() if record.tokens else None,
        norm=norm,
        convention=rule,
        _ov=ov,
        _scale=scale,
        _mlps=mlps @ read * scale[:, None, None] + share[:, None],
        _embedding=record.embedding.float() @ read * scale[:, None] + share,
        _head_offset=head_offset,
        _bias=bias,
    )


def _folded(block) -> Float[Tensor, "head d_head d_model"]:
    """A block's output matrices with LayerScale folded in."""
    return block.attn.w_o.float() * _float(block.attention_scale)


def _float(scale: Tensor | float) -> Tensor | float:
    return scale.float() if isinstance(scale, Tensor) else scale
