"""What turns every head's z into its contribution: output matrices times readout, folded once a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FoldedHeads:
    """Maps from z to the joint space, but for images' scales.

    Attributes:
        inward: of one readout row to the joint space; of several to each pool head's values, with one more axis.
        outward: from there to the joint space; None for one row.
    """

    inward: Float[Tensor, "layer head *pool d_head d_inner"]
    outward: Float[Tensor, "pool d_inner d_embed"] | None = None

    @property
    def d_embed(self) -> int:
        """Dimensions of the joint space."""
        return self.inward.shape[-1] if self.outward is None else self.outward.shape[-1]

    def heads(self, z: Float[Tensor, "batch layer head *pool d_head"]) -> Float[Tensor, "batch layer head d_embed"]:
        """Contribution of every head."""
        if self.outward is None:
            return torch.einsum("blhd,lhde->blhe", z, self.inward)
        return torch.einsum("blhpx,pxe->blhe", self._inner(z), self.outward)

    def layers(self, z: Float[Tensor, "batch layer head *pool d_head"]) -> Float[Tensor, "batch layer d_embed"]:
        """Heads of every layer summed, without materializing them."""
        if self.outward is None:
            return torch.einsum("blhd,lhde->ble", z, self.inward)
        return torch.einsum("blpx,pxe->ble", torch.einsum("blhpd,lhpdx->blpx", z, self.inward), self.outward)

    def toward(
        self, z: Float[Tensor, "batch layer head *pool d_head"], texts: Float[Tensor, "text d_embed"]
    ) -> Float[Tensor, "batch layer head text"]:
        """Projection of every head on texts, without materializing contributions."""
        if self.outward is None:
            folded = torch.einsum("lhde,te->lhdt", self.inward, texts)
            return torch.einsum("blhd,lhdt->blht", z, folded)
        return torch.einsum("blhpx,pxt->blht", self._inner(z), self.outward @ texts.T)

    def tokens(
        self,
        weighted: Float[Tensor, "batch head token *pool d_head"],
        layer: int,
        heads: list[int],
        texts: Tensor | None = None,
    ) -> Float[Tensor, "batch head token write"]:
        """Contributions of weighted values through heads of a layer, toward texts if there are any."""
        own, outward = self.inward[layer, heads], self.outward
        if outward is None:
            return weighted @ (own if texts is None else own @ texts.T)
        outward = outward if texts is None else outward @ texts.T
        return torch.einsum("bhnpx,pxe->bhne", torch.einsum("bhnpd,hpdx->bhnpx", weighted, own), outward)

    def basis(self, offsets: Float[Tensor, "layer vector d_embed"] | None) -> Float[Tensor, "layer head rank d_embed"]:
        """Orthonormal rows that span everything a head can write, and offsets beside."""
        span = self._span()
        if span is None:
            eye = torch.eye(self.d_embed, dtype=self.inward.dtype, device=self.inward.device)
            return eye.expand(*self.inward.shape[:2], -1, -1)
        if offsets is not None:
            span = torch.cat([span, offsets[:, None].expand(-1, span.shape[1], -1, -1)], dim=2)
        # In double precision, so that distances between coordinates are distances between contributions.
        return torch.linalg.qr(span.double().mT).Q.mT.to(span.dtype).contiguous()

    def coordinates(
        self, z: Float[Tensor, "batch layer head *pool d_head"], basis: Float[Tensor, "layer head rank d_embed"]
    ) -> Float[Tensor, "batch layer head rank"]:
        """Contributions in a basis of every head's own."""
        if self.outward is None:
            return torch.einsum("blhd,lhdr->blhr", z, self.inward @ basis.mT)
        return torch.einsum("blhe,lhre->blhr", self.heads(z), basis)

    def _inner(self, z: Tensor) -> Float[Tensor, "batch layer head pool d_inner"]:
        return torch.einsum("blhpd,lhpdx->blhpx", z, self.inward)

    def _span(self) -> Tensor | None:
        """Rows that a head's contributions are made of; None where they are as many as the joint space has axes."""
        if self.outward is None:
            return self.inward
        pool, d_head = self.inward.shape[2:4]
        if pool * d_head >= self.d_embed:
            return None
        return torch.einsum("lhpdx,pxe->lhpde", self.inward, self.outward).flatten(2, 3)
