r"""How far a head's activity is from clean activity: the Mahalanobis distance of the class token's z.

Distances are taken in the head's own d_head-dimensional space, on attention-weighted values as the head computed them.
Contributions divided by the norm of the representation, which the paper's prototypes use, would hide a triggered image
whose representation is long: everything in it looks small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: Share of the mean variance added to every direction, so that those clean images hardly use do not dominate.
_RIDGE = 1e-3


@dataclass(frozen=True)
class HeadSpread:
    """Clean means and spreads of every head.

    Attributes:
        precision: inverse covariance.
        distances: of the clean images themselves, sorted.
    """

    mean: Float[Tensor, "layer head d_head"]
    precision: Float[Tensor, "layer head d_head d_head"]
    distances: Float[Tensor, "image layer head"]

    @classmethod
    def fit(cls, z: Float[Tensor, "image layer head d_head"]) -> HeadSpread:
        """Estimate from clean images, in float64."""
        mean = z.mean(0)
        centered = (z - mean).double()
        covariance = torch.einsum("nlhd,nlhe->lhde", centered, centered) / len(z)
        ridge = _RIDGE * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        precision = torch.linalg.inv(covariance + ridge * torch.eye(z.shape[-1], device=z.device)).float()
        distances = torch.stack([_distance(z[:, k], mean[k], precision[k]) for k in range(z.shape[1])], dim=1)
        return cls(mean, precision, distances.sort(0).values)

    def distance(self, z: Float[Tensor, "batch head d_head"], layer: int) -> Float[Tensor, "batch head"]:
        """Distance of one layer's heads from clean ones."""
        return _distance(z, self.mean[layer], self.precision[layer])

    def quantile(self, share: float) -> Float[Tensor, "layer head"]:
        """The distance that ``share`` of the clean images stay below, for every head."""
        return self.distances[int(share * (len(self.distances) - 1))]


def _distance(z: Tensor, mean: Tensor, precision: Tensor) -> Float[Tensor, "batch head"]:
    centered = z.float() - mean
    return torch.einsum("bhd,hde,bhe->bh", centered, precision, centered).clamp(min=0).sqrt()
