r"""Decomp-Det: an input is suspicious when heads are unlike what they are on clean images (He et al., 2025).

``score="count"`` is the paper's: the number of heads of the last layer that are selected by :math:`S \le \epsilon`; an
input is flagged when it exceeds zeta, 5 of 12 heads. It has few values, and with few classes it mostly notices "looks
like the target class": the target's clean images are unlike the mean prototype, too. ``score="distance"`` is
continuous and needs no epsilon: how unusual the deviations from clean activity are under their clean covariance, of all
heads, all MLPs or both together, whichever is most (:mod:`defenses.deviation`).

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
from clip_decomp.decompose import observe
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP

from .deviation import Deviation, Parts, observe_clean
from .selection import Measure, clean_decompositions, fit_selector, resolve_layers

Score = Literal["count", "distance"]


class DecompDet:
    """A detector of triggered inputs.

    Args:
        score: ``count`` (the paper's) or ``distance``; see the module.
        parts: what ``distance`` looks at: ``heads``, ``mlps`` or ``both``.
        layers: layers whose heads ``count`` looks at, the last by default.
        epsilon: selection threshold of ``count``; calibrated when None.
        measure: ``dot`` as the paper's code, or ``cosine`` as its text.
        zeta: an input is flagged when more heads than this are selected; 5 of 12 as a share of the heads by default.
        share: share of clean (image, head) pairs that a calibrated epsilon selects. The default lets clean images have
            3.6 of 12 heads selected, so that more than five is unusual.

    Attributes:
        selector_: the fitted :class:`~defenses.selection.HeadSelector` (``count``).
        zeta_: the threshold of ``count``, in heads.
        deviation_: the fitted :class:`~defenses.deviation.Deviation` (``distance``).
        cutoff_: the threshold of ``distance``: the 95 % quantile of the clean images' left-out scores.
    """

    def __init__(
        self,
        score: Score = "count",
        layers: tuple[int, ...] | None = None,
        epsilon: float | None = None,
        measure: Measure = "dot",
        zeta: float | None = None,
        share: float = 0.3,
        parts: Parts = "both",
    ):
        if score not in ("count", "distance"):
            raise SettingError(f"Scores are count and distance, not {score!r}.")
        if parts not in ("heads", "mlps", "both"):
            raise SettingError(f"A distance looks at heads, mlps or both, not at {parts!r}.")
        self.kind, self.layers, self.epsilon, self.measure = score, layers, epsilon, measure
        self.zeta, self.share, self.parts = zeta, share, parts

    def fit(self, model: HookedCLIP, clean: ImageSet | Float[Tensor, "image 3 row column"]) -> DecompDet:
        """Learn prototypes and thresholds, or spreads, from held-out clean images; returns itself."""
        self.model_ = model
        if self.kind == "distance":
            self.deviation_ = Deviation.fit(observe_clean(model, clean), self.parts)
            scores = self.deviation_.left_out.sort().values
            self.cutoff_ = float(scores[int(0.95 * (len(scores) - 1))])
            return self
        layers = resolve_layers(self.layers or (-1,), model.visual.n_layers)
        heads = torch.cat([dec.heads[:, list(layers)] for dec in clean_decompositions(model, clean)])
        self.selector_ = fit_selector(heads, layers, self.epsilon, self.measure, self.share)
        self.zeta_ = self.zeta if self.zeta is not None else 5 / 12 * heads.shape[1] * heads.shape[2]
        return self

    @torch.no_grad()
    def suspicious_heads(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, "batch layer head"]:
        """Which heads of normalized images are selected (``count``)."""
        return self.selector_.select(self._heads(images))

    @torch.no_grad()
    def similarity(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch layer head"]:
        """Similarity of every head of normalized images to its prototype (``count``)."""
        return self.selector_.similarity(self._heads(images))

    @torch.no_grad()
    def score(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Suspicion of normalized images, higher is more suspicious: heads for ``count``, for ``distance`` the
        largest deviation of the parts together in clean standard deviations.
        """
        if self.kind == "count":
            return self.suspicious_heads(images).sum((1, 2)).float()
        return self.deviation_.measure(observe(self.model_.visual, images.to(self.model_.device))).score

    def predict(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, " batch"]:
        """Whether normalized images are flagged: more than zeta heads, or a larger deviation than 95 % of the
        clean images that it was fitted on.
        """
        return self.score(images) > (self.zeta_ if self.kind == "count" else self.cutoff_)

    def _heads(self, images: Tensor) -> Float[Tensor, "batch layer head d_embed"]:
        return self.model_.decompose(images, convention=PAPER).heads[:, list(self.selector_.layers)]
