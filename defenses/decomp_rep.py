r"""Decomp-Rep: repair the representation of an image by replacing infected contributions (He et al., ICML 2025).

For every image, the heads of the last layer that are unlike their prototypes are replaced by them; the variant for
global triggers replaces the last five MLPs of every image. Only the sum is edited, so nothing is retrained and a clean
image whose heads are all typical keeps its representation.

The paper chooses between heads and MLPs by knowing the attack. ``components="auto"`` chooses for every input from its
own evidence: an image whose heads and MLPs deviate no more than 95 % of the clean images' do keeps its
representation, of any other the heads are repaired or the MLPs, whichever deviate more (:mod:`defenses.deviation`). It
needs no pass of its own: a quadratic form an image for every head and MLP.

Limits: an edit of the sum comes too late where later layers have read what an infected head wrote; see
:mod:`defenses.decomp_rep_total`.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> repaired = DecompRep().fit(model, open_data("world", 64).held_out)
    >>> repaired.encode_image(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 128])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.convention import PAPER
from clip_decomp.data.sets import ImageSet
from clip_decomp.decompose import Observation
from clip_decomp.decomposition import Decomposition
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP

from .defended import ImageSideDefense
from .deviation import Deviation, Deviations
from .selection import HeadSelector, Measure, clean_decompositions, fit_selector, resolve_layers
from .stored_repair import fitting, read_repair, write_repair

Components = Literal["heads", "mlps", "auto"]
Replacement = Literal["prototype", "zero", "random"]
_SETTINGS = ("components", "layers", "epsilon", "measure", "replacement", "share", "heads", "seed")


class DecompRep(ImageSideDefense):
    """A repaired model: ``encode_image`` returns repaired representations, everything else is the model's.

    Args:
        components: ``heads`` (patch triggers), ``mlps`` (global triggers) or ``auto`` (each image's own evidence).
        layers: layers whose heads may be replaced, the last by default; for MLPs the last five. Not with ``auto``.
        epsilon: selection threshold; calibrated on the clean images when None.
        measure: ``dot`` as the paper's code, or ``cosine`` as its text.
        replacement: ``prototype``, or table 5's ``zero`` ("w Abandon") and ``random`` (standard normal values).
        share: share of clean (image, head) pairs that a calibrated epsilon selects.
        heads: which heads of the layers are replaced: ``selected`` ones, or table 3's rivals: these heads of every
            image, or so many random ones of each.
        seed: of random values and heads.

    Attributes:
        selector_: the fitted :class:`~defenses.selection.HeadSelector` (heads).
        mlp_means_: mean contributions of the replaced MLPs (MLPs).
        deviation_, cutoff_: clean activity, and the score that 95 % of clean images stay below (``auto``).
    """

    def __init__(
        self,
        components: Components = "heads",
        layers: tuple[int, ...] | None = None,
        epsilon: float | None = None,
        measure: Measure = "dot",
        replacement: Replacement = "prototype",
        share: float = 0.05,
        heads: Literal["selected"] | tuple[int, ...] | int = "selected",
        seed: int = 0,
    ):
        if components not in get_args(Components):
            raise SettingError(f"Components to repair are heads, mlps or auto, not {components!r}.")
        if replacement not in get_args(Replacement):
            raise SettingError(f"Replacements are prototype, zero and random, not {replacement!r}.")
        if components == "auto" and layers is not None:
            raise SettingError("With components='auto' layers are the paper's: heads of the last, the last five MLPs.")
        self.components, self.layers, self.epsilon = components, layers, epsilon
        self.measure, self.replacement, self.share = measure, replacement, share
        self.heads, self.seed = heads, seed

    def fit(self, model: HookedCLIP, clean: ImageSet | Float[Tensor, "image 3 row column"]) -> DecompRep:
        """Learn prototypes and threshold from held-out clean images; returns itself.

        Args:
            clean: a data set, or normalized images. Labels are not used.

        Raises:
            SettingError: layers or heads that the tower does not have, or another setting out of range.
            DataError: too few images.
        """
        self.model_ = model
        n_layers, n_heads = model.visual.n_layers, model.visual.n_heads
        if not isinstance(self.heads, str):
            numbers = (self.heads - 1,) if isinstance(self.heads, int) else self.heads
            if not numbers or not all(0 <= each < n_heads for each in numbers):
                raise SettingError(f"Heads {self.heads} are not among the {n_heads} of a layer.")
        parts = clean_decompositions(model, clean)
        if self.components != "mlps":
            layers = resolve_layers(self.layers or (-1,), n_layers)
            heads = torch.cat([dec.heads[:, list(layers)] for dec in parts])
            self.selector_ = fit_selector(heads, layers, self.epsilon, self.measure, self.share)
        if self.components != "heads":
            self.mlp_layers_ = list(resolve_layers(self.layers or tuple(range(-min(5, n_layers), 0)), n_layers))
            self.mlp_means_ = torch.cat([dec.mlps[:, self.mlp_layers_] for dec in parts]).mean(0)
        if self.components == "auto":
            seen = [_activity(dec) for dec in parts]
            whole = zip(*((each.features, each.z, each.mlps) for each in seen), strict=True)
            self.deviation_ = Deviation.fit(Observation(*(torch.cat(each) for each in whole)))
            scores = self.deviation_.left_out.sort().values
            self.cutoff_ = float(scores[int(0.95 * (len(scores) - 1))])
        return self

    def repair(self, dec: Decomposition) -> Float[Tensor, "batch d_embed"]:
        """Repaired representations of a decomposition under the paper's convention, at their original norm.

        Raises:
            SettingError: a decomposition under another convention.
        """
        _check(dec)
        if self.components == "heads":
            change = self._of_heads(dec)
        elif self.components == "mlps":
            change = self._of_mlps(dec)
        else:
            found = self.deviation_.measure(_activity(dec))
            by_heads = (found.of_heads >= found.of_mlps)[:, None]
            change = torch.where(by_heads, self._of_heads(dec), self._of_mlps(dec))
            change = change * self._unusual(found)[:, None]
        return (dec.sum() + change) * dec.norm[:, None]

    def reverse(self, clean: Decomposition, triggered: Decomposition) -> Float[Tensor, "batch d_embed"]:
        """Decomp-Reverse: clean representations with the contributions of the heads that are selected in the same
        images' triggered versions, taken from these (table 3).

        Raises:
            SettingError: decompositions under another convention.
        """
        for dec in (clean, triggered):
            _check(dec)
        layers = list(self.selector_.layers)
        bad = triggered.heads[:, layers]
        change = ((bad - clean.heads[:, layers]) * self._chosen(bad)[..., None]).sum((1, 2))
        return (clean.sum() + change) * clean.norm[:, None]

    @torch.no_grad()
    def encode_image(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Repaired representations of normalized images."""
        return self.repair(self.model_.decompose(images, convention=PAPER))

    def is_deviant(self, dec: Decomposition) -> Bool[Tensor, " batch"]:
        """Which images of a decomposition under the paper's convention are repaired at all (``auto``)."""
        _check(dec)
        return self._unusual(self.deviation_.measure(_activity(dec)))

    @torch.no_grad()
    def deviant(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, " batch"]:
        """Which normalized images are repaired at all (``auto``)."""
        return self.is_deviant(self.model_.decompose(images, convention=PAPER))

    def save(self, folder: str | Path) -> None:
        """Write what was fitted, without the model that it belongs to: safetensors and JSON."""
        tensors: dict[str, Tensor] = {}
        card: dict[str, Any] = {"settings": {name: getattr(self, name) for name in _SETTINGS}}
        if self.components != "mlps":
            tensors["prototypes"] = self.selector_.prototypes
            card |= {"layers": self.selector_.layers, "epsilon": self.selector_.epsilon}
        if self.components != "heads":
            tensors["mlp_means"], card["mlp_layers"] = self.mlp_means_, self.mlp_layers_
        if self.components == "auto":
            tensors, card = tensors | self.deviation_.tensors(), card | {"cutoff": self.cutoff_}
        write_repair(Path(folder), self.model_, "direct", tensors, card)

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """A repair that was saved for this model.

        Raises:
            ModelError: not such a folder, damaged files, or the repair of another image tower.
        """

        def make(tensors: dict[str, Tensor], card: dict[str, Any]) -> Self:
            settings, visual = card["settings"], model.visual
            lists = {name: tuple(settings[name]) for name in ("layers", "heads") if isinstance(settings[name], list)}
            loaded = cls(**settings | lists)
            loaded.model_ = model
            if loaded.components != "mlps":
                layers = tuple(card["layers"])
                prototypes = fitting(tensors, "prototypes", (len(layers), visual.n_heads, visual.d_embed))
                loaded.selector_ = HeadSelector(layers, prototypes, float(card["epsilon"]), loaded.measure)
            if loaded.components != "heads":
                loaded.mlp_layers_ = list(card["mlp_layers"])
                loaded.mlp_means_ = fitting(tensors, "mlp_means", (len(loaded.mlp_layers_), visual.d_embed))
            if loaded.components == "auto":
                loaded.deviation_, loaded.cutoff_ = Deviation.restore(tensors, "both"), float(card["cutoff"])
            return loaded

        return read_repair(Path(folder), model, "direct", make)

    def _unusual(self, found: Deviations) -> Bool[Tensor, " batch"]:
        return found.score > self.cutoff_

    def _of_heads(self, dec: Decomposition) -> Float[Tensor, "batch d_embed"]:
        heads = dec.heads[:, list(self.selector_.layers)]
        return repair_change(heads, self._chosen(heads), self._target(self.selector_.prototypes, heads.shape[0]))

    def _of_mlps(self, dec: Decomposition) -> Float[Tensor, "batch d_embed"]:
        return (self._target(self.mlp_means_, dec.z.shape[0]) - dec.mlps[:, self.mlp_layers_]).sum(1)

    def _chosen(self, heads: Float[Tensor, "batch layer head d_embed"]) -> Bool[Tensor, "batch layer head"]:
        if isinstance(self.heads, str):
            return self.selector_.select(heads)
        if isinstance(self.heads, int):
            ranks = torch.rand(heads.shape[:3], generator=self._generator()).argsort(-1).to(heads.device)
            return ranks < self.heads
        fixed = torch.zeros(heads.shape[:3], dtype=torch.bool, device=heads.device)
        fixed[..., list(self.heads)] = True
        return fixed

    def _target(self, means: Tensor, batch: int) -> Tensor:
        if self.replacement == "random":
            return torch.randn(batch, *means.shape, generator=self._generator()).to(means)
        return means if self.replacement == "prototype" else torch.zeros_like(means)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def repair_change(
    heads: Float[Tensor, "batch layer head d_embed"],
    selected: Bool[Tensor, "batch layer head"],
    target: Float[Tensor, "*batch layer head d_embed"],
) -> Float[Tensor, "batch d_embed"]:
    """What putting ``target`` in the place of the selected heads adds to the representation."""
    return ((target - heads) * selected[..., None]).sum((1, 2))


def _activity(dec: Decomposition) -> Observation:
    """What :mod:`defenses.deviation` measures: MLPs as they wrote, not over the image's sigma and norm."""
    return Observation(dec.sum(), dec.z, dec.mlps / dec.scale[:, None, None])


def _check(dec: Decomposition) -> None:
    if dec.convention != PAPER:
        raise SettingError("Decomp-Rep repairs contributions of convention='paper'.")
