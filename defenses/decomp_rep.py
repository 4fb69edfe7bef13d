"""Decomp-Rep: repair the representation of an image by replacing infected contributions (He et al., ICML 2025).

For every image, the heads of the last layer that are unlike their prototypes are replaced by them; the variant for
global triggers replaces the last five MLPs of every image. Only the sum is edited, so nothing is retrained and a clean
image whose heads are all typical keeps its representation.

Limits: the paper chooses between heads and MLPs by knowing the attack, and so does ``components`` here.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> repaired = DecompRep().fit(model, open_data("world", 64).held_out)
    >>> repaired.encode_image(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 128])
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.convention import PAPER
from clip_decomp.data.sets import ImageSet
from clip_decomp.decomposition import Decomposition
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP

from .defended import ImageSideDefense
from .selection import Measure, clean_decompositions, fit_selector, resolve_layers

Replacement = Literal["prototype", "zero"]


class DecompRep(ImageSideDefense):
    """A repaired model: ``encode_image`` returns repaired representations, everything else is the model's.

    Args:
        components: ``heads`` (patch triggers) or ``mlps`` (global triggers).
        layers: layers whose heads may be replaced, the last by default; for MLPs the last five.
        epsilon: selection threshold; calibrated on the clean images when None.
        measure: ``dot`` as the paper's code, or ``cosine`` as its text.
        replacement: ``prototype``, or ``zero`` (table 5, "w Abandon").
        share: share of clean (image, head) pairs that a calibrated epsilon selects.

    Attributes:
        selector_: the fitted :class:`~defenses.selection.HeadSelector` (heads only).
        mlp_means_: mean contributions of the replaced MLPs (MLPs only).
    """

    def __init__(
        self,
        components: Literal["heads", "mlps"] = "heads",
        layers: tuple[int, ...] | None = None,
        epsilon: float | None = None,
        measure: Measure = "dot",
        replacement: Replacement = "prototype",
        share: float = 0.05,
    ):
        if components not in ("heads", "mlps"):
            raise SettingError(f"Components to repair are heads or mlps, not {components!r}.")
        if replacement not in ("prototype", "zero"):
            raise SettingError(f"Replacements are prototype and zero, not {replacement!r}.")
        self.components, self.layers, self.epsilon = components, layers, epsilon
        self.measure, self.replacement, self.share = measure, replacement, share

    def fit(self, model: HookedCLIP, clean: ImageSet | Float[Tensor, "image 3 row column"]) -> DecompRep:
        """Learn prototypes and threshold from held-out clean images; returns itself.

        Args:
            clean: a data set, or normalized images. Labels are not used.
        """
        self.model_ = model
        n_layers = model.visual.n_layers
        default = (-1,) if self.components == "heads" else tuple(range(-min(5, n_layers), 0))
        self.layers_ = resolve_layers(self.layers or default, n_layers)
        parts = clean_decompositions(model, clean)
        chosen = list(self.layers_)
        if self.components == "heads":
            heads = torch.cat([dec.heads[:, chosen] for dec in parts])
            self.selector_ = fit_selector(heads, self.layers_, self.epsilon, self.measure, self.share)
        else:
            self.mlp_means_ = torch.cat([dec.mlps[:, chosen] for dec in parts]).mean(0)
        return self

    def repair(self, dec: Decomposition) -> Float[Tensor, "batch d_embed"]:
        """Repaired representations of a decomposition under the paper's convention, at their original norm."""
        if dec.convention != PAPER:
            raise SettingError("Decomp-Rep repairs contributions of convention='paper'.")
        chosen = list(self.layers_)
        if self.components == "mlps":
            target = self.mlp_means_ if self.replacement == "prototype" else torch.zeros_like(self.mlp_means_)
            change = (target - dec.mlps[:, chosen]).sum(1)
        else:
            heads = dec.heads[:, chosen]
            change = repair_change(heads, self.selector_.select(heads), self.selector_.prototypes, self.replacement)
        return (dec.sum() + change) * dec.norm[:, None]

    def encode_image(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Repaired representations of normalized images."""
        return self.repair(self.model_.decompose(images, convention=PAPER))


def repair_change(
    heads: Float[Tensor, "batch layer head d_embed"],
    selected: Bool[Tensor, "batch layer head"],
    prototypes: Float[Tensor, "layer head d_embed"],
    replacement: Replacement = "prototype",
) -> Float[Tensor, "batch d_embed"]:
    """What replacing the selected heads adds to the representation."""
    target = prototypes if replacement == "prototype" else torch.zeros_like(prototypes)
    return ((target - heads) * selected[..., None]).sum((1, 2))
