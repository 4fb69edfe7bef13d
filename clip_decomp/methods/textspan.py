r"""TEXTSPAN: the texts that span what a head, an MLP or a layer writes (Gandelsman et al. 2024, He et al. 2025).

Greedy, as published: project the texts :math:`t_j` on the span of the (uncentered) contributions, choose the text along
which the centered contributions vary most, take its direction out of contributions and texts, repeat.

Everything that decides is a quadratic form of the covariance :math:`\Sigma`: the variance along a text is
:math:`t_j^\top \Sigma t_j`, and removing a direction :math:`u` from all texts changes it by
:math:`-2 (t_j u)\, t_j^\top \Sigma u + (t_j u)^2\, u^\top \Sigma u`. So the data is needed through count, mean and
second moment only (:mod:`clip_decomp.moments`): after one pass the cost does not depend on the number of images, and a
head is explained in the ``d_head`` dimensions of its own space.

The rank is ``min(rank, numerical rank)`` of the uncentered data; the published code goes on with arbitrary null
directions where the data has fewer dimensions than ``rank``. Texts end when the variance is used up, so fewer than
``n_texts`` may come back.

Limits: what the variance of contributions does not show (a constant push toward a class) no text will name.

Example:
    >>> data = torch.randn(200, 1) * torch.tensor([3.0, 0.0, 0.0]) + torch.randn(200, 1) * torch.tensor([0.0, 1.0, 0.0])
    >>> found = textspan(data, torch.eye(3), n_texts=2, rank=2)
    >>> found.indices.tolist(), round(found.explained_variance_ratio.sum().item(), 6)
    ([0, 1], 1.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..errors import DataError, SettingError
from ..moments import Moments

if TYPE_CHECKING:
    import pandas as pd

#: Variance below this share of the whole is rounding.
_USED_UP = 1e-10
#: A text that keeps less than this share of its length has no direction of its own.
_ROUNDING = 1e-7


@dataclass(frozen=True)
class TextSpan:
    """Texts in the order they were chosen.

    Attributes:
        indices: into the candidate texts.
        explained_variance: of the contributions along each text, what earlier texts explain left out.
        total_variance: of the contributions.
        directions: orthonormal; the part of each text that is new.
        mean: of the contributions.
        rank: dimensions of the span that texts were projected on.
        count: images.
        texts: the chosen texts, if their names were given.
    """

    indices: Int[Tensor, " chosen"]
    explained_variance: Float64[Tensor, " chosen"]
    total_variance: float
    directions: Float64[Tensor, "chosen d_embed"]
    mean: Float64[Tensor, " d_embed"]
    rank: int
    count: int
    texts: tuple[str, ...] | None = None
    _data: Float[Tensor, "image d_embed"] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def explained_variance_ratio(self) -> Float64[Tensor, " chosen"]:
        """Share of the contributions' variance along each text."""
        return self.explained_variance / self.total_variance

    def reconstruct(self, contributions: Float[Tensor, "image d_embed"]) -> Float[Tensor, "image d_embed"]:
        """Contributions with nothing left but their mean and what the texts explain.

        Raises:
            SettingError: contributions of another width.
        """
        if contributions.ndim != 2 or contributions.shape[1] != len(self.mean):
            raise SettingError(f"Contributions must be [image, {len(self.mean)}], not {list(contributions.shape)}.")
        centered = contributions.double() - self.mean
        return (self.mean + centered @ self.directions.T @ self.directions).to(contributions.dtype)

    @cached_property
    def reconstruction(self) -> Float[Tensor, "image d_embed"]:
        """The contributions that were explained, reconstructed.

        Raises:
            SettingError: they were given as moments; call :meth:`reconstruct`.
        """
        if self._data is None:
            raise SettingError("Of moments there are no images to reconstruct: call reconstruct(contributions).")
        return self.reconstruct(self._data)

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a text."""
        import pandas as pd

        texts = self.texts if self.texts is not None else [str(index) for index in self.indices.tolist()]
        return pd.DataFrame(
            {
                "text": texts,
                "index": self.indices.tolist(),
                "explained_variance_ratio": self.explained_variance_ratio.tolist(),
            }
        )

    def _repr_html_(self) -> str:
        frame = self.to_frame().assign(text=lambda each: each["text"].map(escape))
        return frame.to_html(index=False, escape=False, float_format=lambda x: f"{x:.3f}")


@torch.no_grad()
def textspan(
    contributions: Float[Tensor, "image d_embed"] | np.ndarray | Moments,
    text_features: Float[Tensor, "text d_embed"],
    n_texts: int = 20,
    rank: int = 80,
    texts: Sequence[str] | None = None,
) -> TextSpan:
    """Explain contributions by texts.

    Args:
        contributions: of one head, MLP or layer, or their :class:`~clip_decomp.moments.Moments`.
        text_features: of any norm, as they are (longer ones are favored); unit norm for the papers' setting.
        n_texts: how many texts, at most.
        rank: dimensions that the texts are projected on.
        texts: the candidate texts, to name the chosen ones.

    Raises:
        DataError: fewer images than the rank asked for (and possible), constant contributions, or values not finite.
        SettingError: text features of another width or number, ``n_texts`` or ``rank`` below 1.
    """
    given = torch.from_numpy(contributions) if isinstance(contributions, np.ndarray) else contributions
    moments = given if isinstance(given, Moments) else Moments.of(given)
    _check(moments, text_features, n_texts, rank, texts)
    span, covariance = _span(moments, rank)
    features = (text_features @ (moments.basis.T @ span).to(text_features)).to(span)
    # A sum is finite only if all of them are, at a fraction of the cost of looking at each.
    if not torch.isfinite(features.sum()):
        raise DataError("Text features hold NaN or infinite values: leave those texts out.")
    total = float(moments.covariance.trace())
    chosen, directions, variances = _greedy(features, span.T @ covariance @ span, n_texts, _USED_UP * total)
    return TextSpan(
        indices=torch.tensor(chosen),
        explained_variance=torch.tensor(variances, dtype=torch.float64),
        total_variance=total,
        directions=directions @ span.T @ moments.basis,
        mean=moments.mean @ moments.basis,
        rank=span.shape[1],
        count=moments.count,
        texts=None if texts is None else tuple(texts[index] for index in chosen),
        _data=given if isinstance(given, Tensor) else None,
    )


def _span(moments: Moments, rank: int) -> tuple[Tensor, Tensor]:
    """Leading right singular vectors of the uncentered data, ``[rank, used]``, and the covariance."""
    values, vectors = torch.linalg.eigh(moments.second)
    # numpy's matrix_rank for float32 data, whose rounding is in the moments whatever they are summed in.
    size = max(moments.count, len(values))
    floor = values[-1] * (size * torch.finfo(torch.float32).eps) ** 2
    used = min(rank, int((values > floor).sum()))
    return vectors[:, -used:].flip(1), moments.covariance


def _greedy(features: Tensor, covariance: Tensor, n_texts: int, floor: float):
    """Chosen indices, orthonormal directions and variances, in the coordinates of the span.

    Texts are never deflated: what is left of one along a vector that is orthogonal to all earlier directions is the
    text itself along that vector.
    """
    variance = ((features @ covariance) * features).sum(1)
    chosen: list[int] = []
    directions = features.new_zeros(0, features.shape[1])
    explained: list[float] = []
    for _ in range(min(n_texts, *features.shape)):
        index = int(variance.argmax())
        left = _orthogonal(features[index], directions)
        if left.norm() <= _ROUNDING * features[index].norm():
            break  # every text that is left repeats those chosen
        direction = left / left.norm()
        image = covariance @ direction
        gained = float(direction @ image)
        if not gained > floor:
            break
        along, across = (features @ torch.stack([direction, _orthogonal(image, directions)], dim=1)).unbind(1)
        variance = variance - 2 * along * across + along.square() * gained
        variance[index] = -1.0
        chosen.append(index)
        directions = torch.cat([directions, direction[None]])
        explained.append(gained)
    return chosen, directions, explained


def _orthogonal(vector: Tensor, directions: Tensor) -> Tensor:
    """The part of a vector that is orthogonal to orthonormal directions; twice, against rounding."""
    for _ in range(2):
        vector = vector - directions.T @ (directions @ vector)
    return vector


def _check(moments: Moments, text_features: Tensor, n_texts: int, rank: int, texts: Sequence[str] | None) -> None:
    width = moments.basis.shape[1]
    if n_texts < 1 or rank < 1:
        raise SettingError(f"TEXTSPAN needs n_texts and rank of 1 or more, not {n_texts} and {rank}.")
    if text_features.ndim != 2 or text_features.shape[1] != width:
        raise SettingError(f"Text features must be [text, {width}], not {list(text_features.shape)}.")
    if texts is not None and len(texts) != len(text_features):
        raise SettingError(f"There are {len(texts)} texts for {len(text_features)} text features.")
    needed = min(rank, len(moments.mean))
    if moments.count < needed:
        raise DataError(f"{moments.count} images cannot span rank {needed}: give more images or a lower rank.")
    if float(moments.covariance.trace()) <= 1e-12 * float(moments.second.trace()):
        raise DataError("The contributions are constant: there is no variance that texts could explain.")
