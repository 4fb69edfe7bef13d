r"""``Guard``: a model of unknown origin that says of every image whether it behaves as clean images do.

A guard is calibrated on unlabelled clean images. One half of them gives clean activity of every head and MLP
(:mod:`defenses.deviation`), the other half the threshold: a fresh clean image like those is flagged with at most the
probability that was asked for, whatever their distribution (split conformal, :mod:`defenses.conformal`).

What happens to a flagged image is the guard's ``mode``: ``flag`` leaves its representation alone, ``reject`` makes it
NaN, so that nobody takes it for an answer, and ``repair`` encodes the image once more with the heads that deviate
replaced by their clean means on the way (:mod:`defenses.decomp_rep_total`).

The guard reads the model in the one pass that encodes: nothing is attached to it, no state changes, so threads may
share a guard, and ``torch.compile`` can take :meth:`Guard.measure`.

Limits: a flag says "unlike the calibration images", not "triggered": images of another domain are flagged, too. Those
who know the guard can look for triggers that pass it.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> guard = Guard.calibrate(model, open_data("world", 64).held_out.first(200))
    >>> verdict = guard(torch.zeros(1, 3, 64, 64))
    >>> verdict.flagged, bool(verdict.features.isnan().all())
    (tensor([True]), True)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.data.sets import PLAIN_TEMPLATE, ImageSet
from clip_decomp.decompose import observe
from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.zeroshot import class_vectors

from . import stored_guard
from .conformal import needed, p_values, sorted_reference
from .contamination import second_group
from .decomp_rep_total import DecompRepTotal
from .defended import ImageSideDefense
from .deviation import Deviation, Deviations, observe_clean, taken
from .evidence import Evidence, evidence

logger = logging.getLogger(__name__)

Mode = Literal["flag", "reject", "repair"]
#: Share of clean images on which each head deviates, where flagged images are repaired. Only flagged ones are, so that
#: clean images hardly pay for a low threshold.
REPAIR_RATE = 0.1


@dataclass(frozen=True)
class Verdict:
    """What a guard says of a batch of images.

    Attributes:
        features: representations, of flagged images as the guard's mode has it.
        flagged: whether an image is unlike clean ones.
        p_values: conformal p-values; small is suspicious.
        deviations: the evidence: how far every head and MLP is from clean ones, and all of them together.
    """

    features: Float[Tensor, "batch d_embed"]
    flagged: Bool[Tensor, " batch"]
    p_values: Float[Tensor, " batch"]
    deviations: Deviations


class Guard(ImageSideDefense):
    """A model with a guard; a drop-in for its ``encode_image`` and ``zero_shot``.

    Args:
        deviation: clean activity.
        reference: scores of clean images that ``deviation`` has not seen, in ascending order.
        false_positive_rate: share of clean images that may be flagged.
        mode: ``flag``, ``reject`` or ``repair``.

    Attributes:
        repairing: encodes flagged images in the mode ``repair``.
    """

    def __init__(
        self,
        model: HookedCLIP,
        deviation: Deviation,
        reference: Float[Tensor, " image"],
        false_positive_rate: float = 0.05,
        mode: Mode = "reject",
    ):
        if mode not in get_args(Mode):
            raise SettingError(f"A guard flags, rejects or repairs: mode is {mode!r}, not {', '.join(get_args(Mode))}.")
        self.model_, self.deviation, self.mode = model, deviation, mode
        self.reference = sorted_reference(reference, false_positive_rate)
        self.false_positive_rate = false_positive_rate
        self.repairing = DecompRepTotal(false_positive_rate=REPAIR_RATE).fit_spread(model, deviation.heads)

    @classmethod
    def calibrate(
        cls,
        model: HookedCLIP,
        clean: ImageSet | Float[Tensor, "image 3 row column"],
        false_positive_rate: float = 0.05,
        mode: Mode = "reject",
        seed: int = 0,
    ) -> Self:
        """A guard from unlabelled clean images: a data set, or normalized images.

        Warns when the scores look like two groups of images, one of which may be triggered.

        Args:
            seed: of the split into images that show clean activity and images that set the threshold.

        Raises:
            SettingError: a rate that does not lie between 0 and 1, or an unknown mode.
            DataError: fewer images than the rate needs, or images that are not finite.
        """
        least = needed(false_positive_rate)
        if len(clean) < 2 * least:
            raise DataError(
                f"A false-positive rate of {false_positive_rate:g} needs {2 * least} clean images or more, half of "
                f"them to set the threshold, and there are {len(clean)}."
            )
        seen = observe_clean(model, clean)
        order = torch.randperm(len(seen.z), generator=torch.Generator().manual_seed(seed))
        first, second = order.tensor_split(2)
        deviation = Deviation.fit(taken(seen, first))
        reference = deviation.measure(taken(seen, second)).score
        guard = cls(model, deviation, reference, false_positive_rate, mode)
        share = second_group(seen)
        if share is not None:
            logger.warning(
                "The calibration images fall into two groups, one of %.0f %%: are there triggered ones among them? "
                "A guard must be calibrated on clean images alone.",
                100 * share,
            )
        return guard

    def measure(self, images: Float[Tensor, "batch 3 row column"]) -> tuple[Tensor, Deviations]:
        """Representations and deviations of normalized images: a pure function, which can be compiled."""
        seen = observe(self.model_.visual, images)
        return seen.features, self.deviation.measure(seen)

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "batch 3 row column"]) -> Verdict:
        """Look at normalized images, one or many.

        Raises:
            SettingError: images of another size, or pixels that are not finite.
        """
        images = images.to(self.model_.device)
        if not images.isfinite().all():
            broken = (~images.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
            raise SettingError(f"Images {broken[:5]} of this batch have pixels that are not finite.")
        features, deviations = self.measure(images)
        found = self.p_values(deviations.score)
        flagged = found <= self.false_positive_rate
        if self.mode != "flag" and flagged.any():
            features = features.clone()
            repaired = self.repairing.encode_image(images[flagged]) if self.mode == "repair" else torch.nan
            features[flagged] = repaired
        return Verdict(features, flagged, found, deviations)

    def p_values(self, scores: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Conformal p-values of scores."""
        return p_values(scores.to(self.reference), self.reference)

    def flags(self, scores: Float[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which scores are flagged."""
        return self.p_values(scores) <= self.false_positive_rate

    @torch.no_grad()
    def score(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Suspicion of normalized images, higher is more suspicious."""
        return self.measure(images.to(self.model_.device))[1].score

    def encode_image(
        self, images: Float[Tensor, "batch 3 row column"], normalize: bool = False
    ) -> Float[Tensor, "batch d_embed"]:
        """Representations of normalized images, of flagged ones as the mode has it."""
        features = self(images).features
        return F.normalize(features, dim=-1) if normalize else features

    def zero_shot(
        self,
        images: Float[Tensor, "batch 3 row column"],
        class_names: Sequence[str],
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
    ) -> Float[Tensor, "batch cls"]:
        """Zero-shot logits of normalized images, of flagged ones as the mode has it."""
        vectors = class_vectors(self.model_, class_names, templates)
        return self.model_.logit_scale.detach() * self.encode_image(images, normalize=True) @ vectors.T

    @torch.no_grad()
    def explain(
        self, images: Float[Tensor, "batch 3 row column"], verdict: Verdict | None = None, heads: int = 3
    ) -> dict[int, Evidence]:
        """Evidence for every flagged image, by its place in the batch: which heads, how far, and which patches.

        Flagged images are encoded once more, with their tokens.

        Args:
            verdict: what the guard said of these images, if it is at hand.
            heads: how many heads to show, the most deviant ones.
        """
        verdict = self(images) if verdict is None else verdict
        return evidence(self.model_, self.deviation, images.to(self.model_.device), verdict.flagged, heads)

    def save(self, folder: str | Path) -> None:
        """Write the guard, without the model that it belongs to: safetensors and JSON."""
        settings = {"false_positive_rate": self.false_positive_rate, "mode": self.mode}
        stored_guard.write(Path(folder), self.model_, self.deviation, self.reference, settings)

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """A guard that was saved for this model.

        Raises:
            ModelError: not such a folder, damaged files, or the guard of another image tower.
        """
        deviation, reference, settings = stored_guard.read(Path(folder), model)
        return cls(model, deviation, reference, **settings)
