r"""Decomp-Det: an input is suspicious when many heads of its last layer are unlike their prototypes (He et al., 2025).

``score="count"`` is the paper's: the number of heads selected by :math:`S \le \epsilon`; an input is flagged when it
exceeds zeta, 5 of 12 heads. With few classes it mostly notices "looks like the target class": the target's clean images
are unlike the mean prototype, too. ``score="distance"`` measures each head of the late half of the tower on its own:
the Mahalanobis distance of its contribution from the clean mean, against the 95 % quantile of clean distances, and
takes the most deviant head.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> detector = DecompDet().fit(model, open_data("world", 64).held_out)
    >>> detector.score(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1])
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.convention import PAPER
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP

from .selection import Measure, clean_decompositions, fit_selector, resolve_layers

Score = Literal["count", "distance"]


class DecompDet:
    """A detector of triggered inputs.

    Args:
        score: ``count`` (the paper's) or ``distance``; see the module.
        layers: layers whose heads are looked at; by default the last for ``count`` and the late half for ``distance``.
        epsilon: selection threshold of ``count``; calibrated when None.
        measure: ``dot`` as the paper's code, or ``cosine`` as its text.
        zeta: an input is flagged when more heads than this are selected; 5 of 12 as a share of the heads by default.
        share: share of clean (image, head) pairs that a calibrated epsilon selects. The default lets clean images have
            3.6 of 12 heads selected, so that more than five is unusual.
        rank: principal directions of each head that ``distance`` uses, where the clean images allow it.

    Attributes:
        selector_: the fitted :class:`~defenses.selection.HeadSelector`.
        zeta_: the threshold in use, in heads.
    """

    def __init__(
        self,
        score: Score = "count",
        layers: tuple[int, ...] | None = None,
        epsilon: float | None = None,
        measure: Measure = "dot",
        zeta: float | None = None,
        share: float = 0.3,
        rank: int = 16,
    ):
        if score not in ("count", "distance"):
            raise SettingError(f"Scores are count and distance, not {score!r}.")
        if rank < 1:
            raise SettingError(f"The rank must be one or more, not {rank}.")
        self.kind, self.layers, self.epsilon, self.measure = score, layers, epsilon, measure
        self.zeta, self.share, self.rank = zeta, share, rank

    def fit(self, model: HookedCLIP, clean: ImageSet | Float[Tensor, "image 3 row column"]) -> DecompDet:
        """Learn prototypes, thresholds and spreads from held-out clean images; returns itself."""
        self.model_ = model
        n_layers = model.visual.n_layers
        late = (-1,) if self.kind == "count" else tuple(range(n_layers // 2, n_layers))
        self.layers_ = resolve_layers(self.layers or late, n_layers)
        parts = clean_decompositions(model, clean)
        heads = torch.cat([dec.heads[:, list(self.layers_)] for dec in parts])
        self.selector_ = fit_selector(heads, self.layers_, self.epsilon, self.measure, self.share)
        n_heads = heads.shape[1] * heads.shape[2]
        self.zeta_ = self.zeta if self.zeta is not None else 5 / 12 * n_heads
        centered = (heads - self.selector_.prototypes).flatten(1, 2).transpose(0, 1).double()
        _, spread, axes = torch.linalg.svd(centered, full_matrices=False)
        rank = min(self.rank, spread.shape[1])
        deviation = spread[:, :rank] / len(heads) ** 0.5
        # Directions in which clean images do not vary at all would make any input infinitely far.
        keep = deviation > 1e-4 * deviation[:, :1]
        self._whiten = (axes[:, :rank] / deviation[..., None] * keep[..., None]).float()
        self._clean_distances = self._distances(heads).sort(0).values
        return self

    def _distances(self, heads: Float[Tensor, "batch layer head d_embed"]) -> Float[Tensor, "batch unit"]:
        centered = (heads - self.selector_.prototypes).flatten(1, 2)
        return torch.einsum("bue,ure->bur", centered, self._whiten).norm(dim=-1)

    @torch.no_grad()
    def suspicious_heads(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, "batch layer head"]:
        """Which heads of normalized images are selected."""
        return self.selector_.select(self._heads(images))

    @torch.no_grad()
    def similarity(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch layer head"]:
        """Similarity of every head of normalized images to its prototype."""
        return self.selector_.similarity(self._heads(images))

    @torch.no_grad()
    def score(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Suspicion of normalized images, higher is more suspicious: heads for ``count``, for ``distance`` the largest
        ratio of a head's distance to the 95 % quantile of its clean distances.
        """
        heads = self._heads(images)
        if self.kind == "count":
            return self.selector_.select(heads).sum((1, 2)).float()
        typical = self._clean_distances[int(0.95 * (len(self._clean_distances) - 1))]
        return (self._distances(heads) / typical).amax(1)

    def predict(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, " batch"]:
        """Whether normalized images are flagged: more than zeta heads, or a distance ratio above 1."""
        score = self.score(images)
        return score > (self.zeta_ if self.kind == "count" else 1.0)

    def _heads(self, images: Tensor) -> Float[Tensor, "batch layer head d_embed"]:
        return self.model_.decompose(images, convention=PAPER).heads[:, list(self.layers_)]
