r"""The representation of an image as an exact sum of direct contributions.

With the norms' sigmas (and a pool's attention) taken as given, a tower's output is linear in its final residual stream,
and the stream is a sum (Elhage et al. 2021, Gandelsman et al. 2024):

.. math::
    R = \mathrm{embedding} + \sum_{l,h} \mathrm{head}_{l,h} + \sum_l \mathrm{mlp}_l \;(+ \mathrm{pool\ MLP})
        + \mathrm{bias}

A head is a sum over tokens, :math:`\mathrm{head}_{l,h} = \sum_n a^{l,h}_n\, v^{l,h}_n W_O^{l,h} W_{read} / \sigma` with
:math:`W_{read} = (I - 11^T/d)\,\mathrm{diag}(\gamma)\,P`; :mod:`clip_decomp.models.readouts` has the other readouts,
which weigh more tokens than the class token or read through several pool heads. Only the factors are kept;
contributions are projected when they are asked for. ``bias`` holds everything constant: output biases of attention and
MLPs, :math:`\beta P`, and biases of a pool.

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
from .folded import FoldedHeads


@dataclass(frozen=True)
class Decomposition:
    """Direct contributions of a batch of images, kept as factors.

    Attributes:
        z: attention-weighted values of the readout's row: of the class token, or pooled as the readout pools tokens
            (with an axis for pool heads behind the heads', if there are any). Norms of the block's own are in it and,
            where tokens are normed one by one, the readout's.
        attention: the readout's attention row of every head, which sums to 1; one more axis, pool heads, before tokens
            where there are any.
        values: values of every token, or None without ``tokens=True``.
        norm: norm of the representation of every image.
        scale: what the final norm multiplies every image's stream by (over the norm, too, if the convention says so).
        convention: how constants are treated; see :mod:`clip_decomp.convention`.
        n_prefix: tokens before the patches.
        pool_mlp: contribution of the MLP of an attention pool, an addend; None where there is none.
        pool_heads: embedding, heads and MLPs as they pass each head of an attention pool: a view of the same sum, of
            which ``bias`` and ``pool_mlp`` are no part, and never to be added to it.
    """

    z: Float[Tensor, "batch layer head *pool d_head"]
    attention: Float[Tensor, "batch layer head *pool token"]
    values: Float[Tensor, "batch layer token head d_head"] | None
    norm: Float[Tensor, " batch"]
    scale: Float[Tensor, " batch"]
    convention: Convention
    n_prefix: int
    pool_mlp: Float[Tensor, "batch d_embed"] | None
    pool_heads: Float[Tensor, "batch pool d_embed"] | None
    _folded: FoldedHeads
    _reach: Float[Tensor, "batch layer head *pool token"] | None
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
        result = self._folded.heads(self._scaled)
        return result if self._head_offset is None else result + self._head_offset[:, :, None] / self.n_heads

    @cached_property
    def head_basis(self) -> Float[Tensor, "layer head rank d_embed"]:
        """Orthonormal rows that span everything a head can write: d_head of them (times pool heads), at most d_embed.

        Under ``convention="paper"`` the constants spread over the heads add up to three. Depends on the weights alone.
        """
        return self._folded.basis(self._offset_span)

    def coordinates(
        self, basis: Float[Tensor, "layer head rank d_embed"] | None = None
    ) -> Float[Tensor, "batch layer head rank"]:
        """Contributions of heads in their own spaces: ``coordinates @ head_basis`` is ``heads``.

        Args:
            basis: the model's :attr:`head_basis`, if it is at hand from another batch.
        """
        basis = self.head_basis if basis is None else basis
        result = self._folded.coordinates(self._scaled, basis)
        if self._head_offset is not None:
            result = result + torch.einsum("ble,lhre->blhr", self._head_offset, basis) / self.n_heads
        return result

    @property
    def mlps(self) -> Float[Tensor, "batch layer d_embed"]:
        """Contribution of every MLP."""
        return self._mlps

    @property
    def embedding(self) -> Float[Tensor, "batch d_embed"]:
        """Contribution of what enters the first block."""
        return self._embedding

    @property
    def bias(self) -> Float[Tensor, "batch d_embed"]:
        """Everything constant; zero under ``convention="paper"``, which spreads it over the rest."""
        return self._bias

    @cached_property
    def attentions(self) -> Float[Tensor, "batch layer d_embed"]:
        """Contribution of every layer's attention: its heads summed, without materializing them."""
        result = self._folded.layers(self._scaled)
        return result if self._head_offset is None else result + self._head_offset

    def sum(self, normalize: bool = False) -> Float[Tensor, "batch d_embed"]:
        """The representation: all contributions added up (divided by the norm under ``convention="paper"``)."""
        total = self.embedding + self.attentions.sum(1) + self.mlps.sum(1) + self.bias
        total = total if self.pool_mlp is None else total + self.pool_mlp
        return torch.nn.functional.normalize(total, dim=-1) if normalize else total

    def toward(self, text_features: Float[Tensor, "text d_embed"]) -> Float[Tensor, "batch layer head text"]:
        """Projection of every head's contribution on each text, without materializing contributions.

        Args:
            text_features: of any norm; unit norm for cosines.
        """
        text = self._texts(text_features)
        result = self._folded.toward(self._scaled, text)
        if self._head_offset is not None:
            result = result + (self._head_offset @ text.T)[:, :, None] / self.n_heads
        return result

    def tokens(self, layer: int, head: int) -> Float[Tensor, "batch token d_embed"]:
        """What each token sends through one head; sums to the head's contribution.

        Raises:
            SettingError: decomposed without ``tokens=True``, or no such layer or head.
        """
        self._check(layer, head)
        weighted = self._weighted(layer, [head])
        result = self._folded.tokens(weighted, layer, [head])[:, 0]
        if self._head_offset is not None:
            share = self._head_offset[:, layer] / (self.n_heads * weighted.shape[2])
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
        return torch.stack([self._layer_map(layer, list(heads), text) for layer in layers], dim=1)

    def _layer_map(
        self, layer: int, heads: list[int], text: Float[Tensor, "text d_embed"]
    ) -> Float[Tensor, "batch head token text"]:
        weighted = self._weighted(layer, heads)
        toward = self._folded.tokens(weighted, layer, heads, text)
        if self._head_offset is not None:
            share = self._head_offset[:, layer] @ text.T / (self.n_heads * weighted.shape[2])
            toward = toward + share[:, None, None]
        return toward

    @property
    def _scaled(self) -> Float[Tensor, "batch layer head *pool d_head"]:
        return self.z * self.scale.view(-1, *[1] * (self.z.ndim - 1))

    def _weighted(self, layer: int, heads: list[int]) -> Float[Tensor, "batch head token *pool d_head"]:
        if self.values is None:
            raise SettingError("Token contributions were not kept: call decompose(images, tokens=True).")
        rows = (self.attention if self._reach is None else self._reach)[:, layer, heads]
        weights = rows * self.scale.view(-1, *[1] * (rows.ndim - 1))
        values = self.values[:, layer, :, heads].transpose(1, 2)
        if weights.ndim > 3:
            return weights.mT[..., None] * values[..., None, :]
        return weights[..., None] * values

    def _check(self, layer: int, head: int) -> None:
        if not -self.n_layers <= layer < self.n_layers or not -self.n_heads <= head < self.n_heads:
            raise SettingError(
                f"There is no head L{layer}H{head}: this tower has {self.n_layers} layers of {self.n_heads} heads."
            )

    def _texts(self, text_features: Tensor) -> Tensor:
        if text_features.ndim != 2 or text_features.shape[1] != self._folded.d_embed:
            raise SettingError(
                f"Text features must be [text, {self._folded.d_embed}], not {list(text_features.shape)}."
            )
        return text_features.to(self._folded.inward)
