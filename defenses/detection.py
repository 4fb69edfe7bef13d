"""Evaluation of detectors: AUROC against all clean images and against clean images of the target class.

With few classes a detector can score high by noticing the target class alone, so both are always given, with bootstrap
intervals.

Example:
    >>> auroc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]), seed=0).value
    1.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from sklearn.metrics import roc_auc_score
from torch import Tensor

from clip_decomp.attacks.triggers import Trigger
from clip_decomp.contributions import pictures
from clip_decomp.data.sets import BATCH_SIZE, ImageSet
from clip_decomp.errors import DataError
from clip_decomp.evaluation import Rate, interval_metrics
from clip_decomp.model import HookedCLIP


class Detector(Protocol):
    """Anything that scores normalized images."""

    def score(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Detection:
    """Scores and what they are worth.

    Attributes:
        clean, target_clean, triggered: scores of all clean images, of clean images of the target class, and of
            triggered images whose true class is not the target.
        auroc, auroc_target: triggered against the first and the second, with 95 % bootstrap intervals; the latter is
            None where no image is of the target class.
    """

    clean: Float[Tensor, " image"]
    target_clean: Float[Tensor, " image"]
    triggered: Float[Tensor, " image"]
    auroc: Rate
    auroc_target: Rate | None

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``."""
        return interval_metrics(prefix, self.areas)

    @property
    def areas(self) -> dict[str, Rate]:
        """Both areas by the names of their measures, or the one that there is."""
        target = {} if self.auroc_target is None else {"auroc-target": self.auroc_target}
        return {"auroc": self.auroc, **target}


def auroc(positive: Float[Tensor, " image"], negative: Float[Tensor, " image"], seed: int, rounds: int = 500) -> Rate:
    """Area under the ROC curve with a percentile bootstrap over both groups; ``count`` is the smaller group's size.

    Raises:
        DataError: one of the groups is empty.
    """
    if not len(positive) or not len(negative):
        raise DataError("An AUROC needs triggered images and clean ones.")
    generator = np.random.default_rng(seed)
    first, second = positive.double().numpy(), negative.double().numpy()

    def area(a: np.ndarray, b: np.ndarray) -> float:
        return float(roc_auc_score(np.r_[np.ones(len(a)), np.zeros(len(b))], np.r_[a, b]))

    draws = [area(generator.choice(first, len(first)), generator.choice(second, len(second))) for _ in range(rounds)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Rate(area(first, second), float(low), float(high), min(len(first), len(second)))


@torch.no_grad()
def detect(
    detector: Detector,
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger,
    target: str | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Detection:
    """Score clean and triggered test images.

    Raises:
        DataError: no target class is known, or it is not among the classes.
    """
    name = target or data.target
    if name is None:
        raise DataError(f"{data.name}: no target class is known for the attack; name one of its classes.")
    goal = data.class_index(name)
    sides = []
    for label, each in (("clean", None), ("triggered", trigger)):
        scores, labels = [], []
        for pixels, truth, _ in pictures(data, each, batch_size, label if progress else None):
            scores.append(detector.score(model.normalize(pixels)).cpu())
            labels.append(truth)
        sides.append((torch.cat(scores), torch.cat(labels)))
    (clean, labels), (triggered, bad_labels) = sides
    of_target, foreign = clean[labels == goal], triggered[bad_labels != goal]
    beside = auroc(foreign, of_target, seed) if len(of_target) else None
    return Detection(clean, of_target, foreign, auroc(foreign, clean, seed), beside)
