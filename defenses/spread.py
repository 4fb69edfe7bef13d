r"""How far activity at the class token is from clean activity: the Mahalanobis distance, and how unusual it is.

A unit is a head with its attention-weighted values z, an MLP with its contribution, or anything else that is a vector
for every image. Covariances are shrunk towards a sphere (Ledoit & Wolf 2004), so that a hundred images are enough, and
distances of the clean images themselves are *left-out* distances, as if each had not been among those that mean and
covariance come from; with :math:`k = n / (n - 1)` and shrinkage :math:`\rho`

.. math::  d_{-i}^2 = \frac{k\, d_i^2}{1 - (1 - \rho)\, k\, d_i^2 / n}

Clean distances are near log-normal, so a unit's *deviation* is its log-distance in standard deviations from the clean
mean of log-distances, and the tail probability of a deviation g under the clean distribution is
:math:`\Phi(-g)`. Deviations of several units are a vector again, with a mean and a covariance of its own.

Values of heads are taken as the head computed them. Contributions divided by the norm of the representation, which the
paper's prototypes use, would hide a triggered image whose representation is long: everything in it looks small.

Example:
    >>> clean = torch.randn(200, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    >>> spread = Spread.fit(clean)
    >>> spread.deviation(clean).shape, bool((spread.deviation(clean + 5) > 3).all())
    (torch.Size([200, 2, 3]), True)
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from clip_decomp.errors import DataError

#: The least shrinkage, so that directions that clean images hardly use do not dominate.
_RIDGE = 1e-3
_TINY = 1e-12


@dataclass(frozen=True)
class Spread:
    """Clean means and spreads of every unit.

    Attributes:
        mean: of the values.
        precision: inverse covariance, shrunk.
        center, width: mean and standard deviation of the clean images' log-distances.
        distances: of the clean images themselves, left out, in their order.
    """

    mean: Float[Tensor, "layer unit d"]
    precision: Float[Tensor, "layer unit d d"]
    center: Float[Tensor, "layer unit"]
    width: Float[Tensor, "layer unit"]
    distances: Float[Tensor, "image layer unit"]

    @classmethod
    def fit(cls, values: Float[Tensor, "image layer unit d"]) -> Spread:
        """Estimate from clean images, in float64.

        Raises:
            DataError: fewer than three images, values that are not finite, or images that are all alike.
        """
        values = values.detach()
        n, device = len(values), values.device
        if n < 3:
            raise DataError(f"Spreads need three clean images or more, not {n}.")
        if not values.isfinite().all():
            raise DataError("Clean images lead to values that are not finite: are there NaNs among their pixels?")
        mean = values.double().mean(0)
        centered = values.double() - mean
        covariance = torch.einsum("nlud,nlue->lude", centered, centered) / n
        sphere = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        if not (sphere > _TINY).any():
            raise DataError(f"The {n} clean images are all alike.")
        shrinkage = [
            ledoit_wolf_shrinkage(each.numpy(), assume_centered=True) if (each != 0).any() else 1.0
            for each in centered.cpu().flatten(1, 2).unbind(1)
        ]
        rho = torch.tensor(shrinkage, device=device, dtype=torch.double).view_as(sphere).clamp(min=_RIDGE)
        eye = torch.eye(values.shape[-1], device=device, dtype=torch.double)
        shrunk = (1 - rho)[..., None, None] * covariance + (rho * sphere.clamp(min=_TINY))[..., None, None] * eye
        precision = torch.linalg.inv(shrunk)
        squared, k = torch.einsum("nlud,lude,nlue->nlu", centered, precision, centered), n / (n - 1)
        left_out = k * squared / (1 - (1 - rho) * k * squared / n).clamp(min=_TINY)
        distances = left_out.clamp(min=_TINY).sqrt()
        logs = distances.log()
        found = mean, precision, logs.mean(0), logs.std(0).clamp(min=_TINY), distances
        return cls(*(each.float() for each in found))

    def distance(self, values: Float[Tensor, "batch layer unit d"]) -> Float[Tensor, "batch layer unit"]:
        """Distances from clean ones."""
        return _distance(values, self.mean, self.precision)

    def distance_at(self, layer: int, values: Float[Tensor, "batch unit d"]) -> Float[Tensor, "batch unit"]:
        """Distances of one layer's units."""
        return _distance(values, self.mean[layer], self.precision[layer])

    def deviation(self, values: Float[Tensor, "batch layer unit d"]) -> Float[Tensor, "batch layer unit"]:
        """How unusual distances are, in standard deviations of clean log-distances."""
        return (self.distance(values).log() - self.center) / self.width

    @property
    def left_out(self) -> Float[Tensor, "image layer unit"]:
        """Deviations of the clean images themselves, as if each had been left out."""
        return (self.distances.log() - self.center) / self.width

    def quantile(self, share: float) -> Float[Tensor, "layer unit"]:
        """The distance that ``share`` of the clean images stay below, for every unit."""
        return self.distances.sort(0).values[int(share * (len(self.distances) - 1))]

    def tensors(self) -> dict[str, Tensor]:
        """What a file needs to hold: ``Spread(**tensors)`` is this spread again."""
        return {each.name: getattr(self, each.name).cpu().contiguous() for each in fields(self)}


def _distance(values: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    centered = values.float() - mean
    turned = torch.einsum("b...d,...de->b...e", centered, precision)
    return (turned * centered).sum(-1).clamp(min=_TINY).sqrt()
