r"""Decomp-Rep in the forward pass: repair heads where they act, not only what they write into the sum.

Decomp-Rep edits direct contributions. When later heads and MLPs have already read what an infected head wrote, the sum
is redundant and the edit comes too late: in ``world/badnet`` the attack survives the ablation of all heads, and of all
MLPs. This variant walks through the tower once. At every layer it measures how far the class token's attention-weighted
values :math:`z` of each head are from clean ones (Mahalanobis distance), replaces those of the deviant heads by their
clean mean, and lets the rest of the tower run on the repaired stream. It is the project's own extension of He et al.
(2025), evaluated beside the paper's method and never under its name alone (``effect=total`` in results).

Limits: it sees heads only, so a trigger that reaches the class token through MLPs alone passes.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> repaired = DecompRepTotal().fit(model, open_data("world", 64).held_out)
    >>> repaired.encode_image(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 128])
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.recording import Record

from .defended import ImageSideDefense
from .deviation import observe_clean
from .selection import resolve_layers
from .spread import Spread


class DecompRepTotal(ImageSideDefense):
    """A model that repairs deviant heads on the way; everything but ``encode_image`` is the model's own.

    Args:
        layers: layers whose heads may be repaired, all by default.
        false_positive_rate: share of clean images that each single head deviates on.

    Attributes:
        spread_: clean means and spreads of every head (:class:`~defenses.spread.Spread`).
        threshold_: distance above which a head is repaired, infinite where none is to be. ``[layer, head]``
    """

    def __init__(self, layers: tuple[int, ...] | None = None, false_positive_rate: float = 0.01):
        if not 0 < false_positive_rate < 1:
            raise SettingError(f"The false-positive rate must lie between 0 and 1, not {false_positive_rate}.")
        self.layers, self.false_positive_rate = layers, false_positive_rate

    def fit(self, model: HookedCLIP, clean: ImageSet | Float[Tensor, "image 3 row column"]) -> DecompRepTotal:
        """Learn means, spreads and thresholds from held-out clean images; labels are not used. Returns itself."""
        return self.fit_spread(model, Spread.fit(observe_clean(model, clean).z))

    def fit_spread(self, model: HookedCLIP, spread: Spread) -> DecompRepTotal:
        """Learn thresholds where clean spreads of every layer's heads are at hand; returns itself."""
        self.model_, self.spread_ = model, spread
        self.layers_ = resolve_layers(self.layers or tuple(range(model.visual.n_layers)), model.visual.n_layers)
        self.threshold_ = torch.full_like(spread.center, torch.inf)
        chosen = list(self.layers_)
        self.threshold_[chosen] = spread.quantile(1 - self.false_positive_rate)[chosen]
        return self

    def deviant(self, z: Float[Tensor, "batch head d_head"], layer: int) -> Bool[Tensor, "batch head"]:
        """Which heads of a layer are further from clean ones than the threshold."""
        return self.spread_.distance_at(layer, z) > self.threshold_[layer]

    def repaired(self, layer: int, z: Float[Tensor, "batch head d_head"]) -> Float[Tensor, "batch head d_head"]:
        """A layer's values with those of deviant heads replaced by their clean means."""
        return torch.where(self.deviant(z, layer)[..., None], self.spread_.mean[layer].to(z), z)

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Representations of normalized images, repaired on the way; nothing is attached to the model."""
        return self.model_.visual(images.to(self.model_.device), Record(edit_z=self.repaired))
