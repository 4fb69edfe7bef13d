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

import torch
from jaxtyping import Float
from torch import Tensor

from .convention import Convention
from .errors import SettingError


@dataclass(frozen=True)
class Decomposition:
    """Direct contributions of a batch of images, kept as factors.

    Attributes:
        z: attention-weighted values of the class token's row.
        attention: the class token's attention row of every head.
        values: values of every token, or None without ``tokens=True``.
        norm: norm of the representation of every image.
        scale: what the final norm multiplies every image's stream by (over the norm, too, if the convention says so).
        convention: how constants are treated; see :mod:`clip_decomp.convention`.
    """

    z: Float[Tensor, "batch layer head d_head"]
    attention: Float[Tensor, "batch layer head token"]
    values: Float[Tensor, "batch layer token head d_head"] | None
    norm: Float[Tensor, " batch"]
    scale: Float[Tensor, " batch"]
    convention: Convention
    _ov: Float[Tensor, "layer head d_head d_embed"]
    _mlps: Float[Tensor, "batch layer d_embed"]
    _embedding: Float[Tensor, "batch d_embed"]
    _head_offset: Float[Tensor, "batch layer d_embed"] | None
    _offset_span: Float[Tensor, "layer vector d_embed"] | None
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
        result = torch.einsum("blhd,lhde->blhe", self.z * self.scale[:, None, None, None], self._ov)
        return result if self._head_offset is None else result + self._head_offset[:, :, None] / self.n_heads

    @cached_property
    def head_basis(self) -> Float[Tensor, "layer head rank d_embed"]:
        """Orthonormal rows that span everything a head can write: d_head of them, or d_embed if that is less.

        Under ``convention="paper"`` the constants spread over the heads add up to three. Depends on the weights alone.
        """
        span = self._ov if self._offset_span is None else self._with_offsets(self._offset_span)
        # In double precision, so that distances between coordinates are distances between contributions.
        return torch.linalg.qr(span.double().mT).Q.mT.to(self._ov.dtype).contiguous()

    def _with_offsets(self, offsets: Tensor) -> Tensor:
        return torch.cat([self._ov, offsets[:, None].expand(-1, self.n_heads, -1, -1)], dim=2)

    def coordinates(
        self, basis: Float[Tensor, "layer head rank d_embed"] | None = None
    ) -> Float[Tensor, "batch layer head rank"]:
        """Contributions of heads in their own spaces: ``coordinates @ head_basis`` is ``heads``.

        Args:
            basis: the model's :attr:`head_basis`, if it is at hand from another batch.
        """
        basis = self.head_basis if basis is None else basis
        folded = self._ov @ basis.mT
        result = torch.einsum("blhd,lhdr->blhr", self.z * self.scale[:, None, None, None], folded)
        if self._head_offset is not None:
            result = result + torch.einsum("ble,lhre->blhr", self._head_offset, basis) / self.n_heads
        return result

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
        result = torch.einsum("blhd,lhde->ble", self.z * self.scale[:, None, None, None], self._ov)
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
        result = torch.einsum("blhd,lhdt->blht", self.z * self.scale[:, None, None, None], folded)
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
        weights = self.attention[:, layer, head] * self.scale[:, None]
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
