r"""Decomp-Det: an input is suspicious when many heads of its last layer are unlike their prototypes (He et al., 2025).

``score="count"`` is the paper's: the number of heads selected by :math:`S \le \epsilon`; an input is flagged when it
exceeds zeta, 5 of 12 heads. With few classes it mostly notices "looks like the target class": the target's clean images
are unlike the mean prototype, too. ``score="distance"`` measures each head of the late half of the tower on its own:
the Mahalanobis distance of its values from the clean mean, against the 95 % quantile of clean distances, and
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
from .spread import HeadSpread

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

    Attributes:
        selector_: the fitted :class:`~defenses.selection.HeadSelector`.
        zeta_: the threshold of ``count``, in heads.
        cutoff_: the threshold of ``distance``: the 95 % quantile of the clean images' scores.
        spread_: clean means and spreads of the heads (:class:`~defenses.spread.HeadSpread`).
    """

    def __init__(
        self,
        score: Score = "count",
        layers: tuple[int, ...] | None = None,
        epsilon: float | None = None,
        measure: Measure = "dot",
        zeta: float | None = None,
        share: float = 0.3,
    ):
        if score not in ("count", "distance"):
            raise SettingError(f"Scores are count and distance, not {score!r}.")
        self.kind, self.layers, self.epsilon, self.measure = score, layers, epsilon, measure
        self.zeta, self.share = zeta, share

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
        z = torch.cat([dec.z[:, list(self.layers_)] for dec in parts])
        self.spread_ = HeadSpread.fit(z)
        clean = self._deviation(z).sort().values
        self.cutoff_ = float(clean[int(0.95 * (len(clean) - 1))])
        return self

    def _deviation(self, z: Float[Tensor, "batch layer head d_head"]) -> Float[Tensor, " batch"]:
        typical = self.spread_.quantile(0.95)
        ratios = [self.spread_.distance(z[:, k], k) / typical[k] for k in range(z.shape[1])]
        return torch.cat(ratios, dim=1).amax(1)

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
        if self.kind == "count":
            return self.suspicious_heads(images).sum((1, 2)).float()
        return self._deviation(self.model_.decompose(images, convention=PAPER).z[:, list(self.layers_)])

    def predict(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, " batch"]:
        """Whether normalized images are flagged: more than zeta heads, or a larger deviation than 95 % of the
        clean images' that it was fitted on.
        """
        return self.score(images) > (self.zeta_ if self.kind == "count" else self.cutoff_)

    def _heads(self, images: Tensor) -> Float[Tensor, "batch layer head d_embed"]:
        return self.model_.decompose(images, convention=PAPER).heads[:, list(self.layers_)]
