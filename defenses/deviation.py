"""How unlike clean images an image's heads and MLPs are, each on its own and all taken together.

Every head's and every MLP's deviation is measured at the class token (:mod:`defenses.spread`); the vector of all
deviations of an image has a clean mean and covariance, too, and how unusual *it* is makes one continuous score.
Deviations of heads are correlated, on clean images as on triggered ones: the covariance is what keeps a picture that is
a little unusual everywhere apart from one that a few heads see in a way that they never see clean ones.

The vector is taken of all heads, of all MLPs, and of both, and the score is the largest of the three: a global trigger
may leave every head as it is, and then heads, which are many, hide in the common vector what MLPs show (Blended
photographs: AUROC 0.56 of the common vector, 0.92 of the largest, on held-out pictures).

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> clean = model.normalize(next(open_data("world", 64).held_out.batches(64)).images / 255)
    >>> Deviation.fit(observe(model.visual, clean)).measure(observe(model.visual, clean[:5])).score.shape
    torch.Size([5])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.data.sets import ImageSet
from clip_decomp.decompose import Observation, observe
from clip_decomp.model import HookedCLIP

from .selection import clean_batches
from .spread import Spread

Parts = Literal["heads", "mlps", "both"]
_SPREADS = ("heads", "mlps", "of_heads", "of_mlps", "of_both")


@dataclass(frozen=True)
class Deviations:
    """Deviations of a batch of images, in standard deviations of clean log-distances.

    Attributes:
        heads, mlps: of every head and MLP.
        of_heads, of_mlps: of all heads together, of all MLPs together.
        score: of the parts that are asked for; of both, the largest of theirs and of that of all parts together.
            Higher is more suspicious.
    """

    heads: Float[Tensor, "batch layer head"]
    mlps: Float[Tensor, "batch layer"]
    of_heads: Float[Tensor, " batch"]
    of_mlps: Float[Tensor, " batch"]
    score: Float[Tensor, " batch"]


@dataclass(frozen=True)
class Deviation:
    """Measures deviations from clean images.

    Attributes:
        heads, mlps: spreads of every head's z, and of every MLP's contribution.
        of_heads, of_mlps, of_both: spreads of their deviations' vectors.
        parts: which of these the score is.
    """

    heads: Spread
    mlps: Spread
    of_heads: Spread
    of_mlps: Spread
    of_both: Spread
    parts: Parts = "both"

    @classmethod
    def fit(cls, clean: Observation, parts: Parts = "both") -> Deviation:
        """Estimate from clean images.

        Raises:
            DataError: fewer than three images, values that are not finite, or images that are all alike.
        """
        heads, mlps = Spread.fit(clean.z), Spread.fit(clean.mlps[:, :, None])
        vectors = _vectors(heads.left_out, mlps.left_out[..., 0])
        return cls(heads, mlps, *(Spread.fit(each) for each in vectors), parts=parts)

    def measure(self, observed: Observation) -> Deviations:
        """Deviations of images."""
        heads = self.heads.deviation(observed.z)
        mlps = self.mlps.deviation(observed.mlps[:, :, None])[..., 0]
        wholes = (self.of_heads, self.of_mlps, self.of_both)
        found = [each.deviation(v)[:, 0, 0] for each, v in zip(wholes, _vectors(heads, mlps), strict=True)]
        return Deviations(heads, mlps, found[0], found[1], self._score(found))

    def tensors(self) -> dict[str, Tensor]:
        """What a file needs to hold, for :meth:`restore`."""
        return {f"{name}.{key}": value for name in _SPREADS for key, value in getattr(self, name).tensors().items()}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], parts: Parts) -> Deviation:
        """A deviation from its tensors, among others.

        Raises:
            TypeError: tensors are missing.
        """
        own = {name: {} for name in _SPREADS}
        for key, value in tensors.items():
            name, _, field = key.partition(".")
            if name in own:
                own[name][field] = value
        return cls(**{name: Spread(**each) for name, each in own.items()}, parts=parts)

    @property
    def left_out(self) -> Float[Tensor, " image"]:
        """Scores of the clean images themselves, as if each had been left out."""
        return self._score([each.left_out[:, 0, 0] for each in (self.of_heads, self.of_mlps, self.of_both)])

    def _score(self, wholes: list[Float[Tensor, " image"]]) -> Float[Tensor, " image"]:
        """The score from the deviations of all heads, of all MLPs and of both together."""
        if self.parts == "both":
            return torch.maximum(torch.maximum(wholes[0], wholes[1]), wholes[2])
        return wholes[0] if self.parts == "heads" else wholes[1]


def taken(seen: Observation, rows: Tensor) -> Observation:
    """Some of the images."""
    rows = rows.to(seen.features.device)
    return Observation(seen.features[rows], seen.z[rows], seen.mlps[rows])


def _vectors(heads: Tensor, mlps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations of heads, of MLPs and of both as vectors of one unit each."""
    flat = heads.flatten(1)
    return flat[:, None, None], mlps[:, None, None], torch.cat([flat, mlps], dim=1)[:, None, None]


@torch.no_grad()
def observe_clean(model: HookedCLIP, images: ImageSet | Float[Tensor, "image 3 row column"]) -> Observation:
    """What clean images, given as a data set or as normalized tensors, leave behind.

    Raises:
        DataError: fewer than two images.
    """
    found = [observe(model.visual, batch.to(model.device)) for batch in clean_batches(model, images)]
    parts = zip(*((each.features, each.z, each.mlps) for each in found), strict=True)
    return Observation(*(torch.cat(each) for each in parts))
