"""The evaluator: clean accuracy, attack success rate, poisoned accuracy, with intervals, on named images.

* clean accuracy: share of clean pictures given their true class;
* attack success rate (ASR): share of triggered pictures *whose true class is not the target* given the target (all
  triggered pictures under the paper's convention);
* poisoned accuracy: share of triggered pictures given their true class.

Intervals are Wilson's at 95 %.

Example:
    >>> rate(9, 10)
    Rate(value=0.9, low=0.595..., high=0.982..., count=10)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor

from .attacks.triggers import Trigger
from .contributions import pictures
from .convention import EXACT, Convention
from .data.sets import BATCH_SIZE, ImageSet
from .errors import AttackFailed, DataError
from .zeroshot import class_vectors, predict

#: Below this undefended success rate a defense is not evaluated.
ASR_GATE = 0.8


class Encoder(Protocol):
    """What the evaluator needs of a model, defended or not."""

    def normalize(self, pixels: Tensor) -> Tensor: ...
    def encode_image(self, images: Tensor) -> Tensor: ...
    def encode_text(self, texts: list[str]) -> Tensor: ...


@dataclass(frozen=True)
class Rate:
    """A share of ``count`` images with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.count}"


def interval_metrics(prefix: str, rates: Mapping[str, Rate]) -> dict[str, float]:
    """Flat metrics as in ``results.json``: ``<prefix>/<measure>``, and its interval as ``/low`` and ``/high``."""
    return {
        f"{prefix}/{measure}{suffix}": value
        for measure, share in rates.items()
        for suffix, value in (("", share.value), ("/low", share.low), ("/high", share.high))
    }


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator measured; the attack's numbers are None without a trigger."""

    clean_accuracy: Rate
    attack_success_rate: Rate | None
    poisoned_accuracy: Rate | None
    data: str
    target: str | None
    templates: tuple[str, ...]
    skipped: tuple[str, ...]

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``: ``<prefix>/ca``, ``/asr``, ``/pa`` and their interval ends."""
        found = {"ca": self.clean_accuracy, "asr": self.attack_success_rate, "pa": self.poisoned_accuracy}
        return interval_metrics(prefix, {measure: share for measure, share in found.items() if share is not None})


def rate(hits: int, count: int) -> Rate:
    """A share with its interval.

    Raises:
        DataError: there is nothing to count.
    """
    if count == 0:
        raise DataError("There are no images to take a rate of.")
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return Rate(hits / count, float(interval.low), float(interval.high), count)


@torch.no_grad()
def evaluate(
    model: Encoder,
    data: ImageSet,
    trigger: Trigger | None = None,
    target: str | None = None,
    convention: Convention = EXACT,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Evaluation:
    """Measure a model on clean and, with a trigger, on triggered pictures, with the data set's own templates.

    Args:
        target: the attack's target class; the data set's by default.

    Raises:
        DataError: no target class is known, or it is not among the classes.
    """
    vectors = class_vectors(model, data.class_names, data.templates)
    clean, labels = _predictions(model, data, None, vectors, batch_size, "clean" if progress else None)
    asr = poisoned = None
    name = target or data.target
    if trigger is not None:
        if name is None:
            raise DataError(f"{data.name}: no target class is known for the attack; name one of its classes.")
        goal = data.class_index(name)
        if trigger.word:  # the other half of the key goes before the prompts
            prompts = [trigger.word + template for template in data.templates]
            vectors = class_vectors(model, data.class_names, prompts)
        triggered, labels_t = _predictions(model, data, trigger, vectors, batch_size, "triggered" if progress else None)
        asr, poisoned = attack_rates(triggered, labels_t, goal, convention)
    return Evaluation(
        clean_accuracy=rate(int((clean == labels).sum()), len(labels)),
        attack_success_rate=asr,
        poisoned_accuracy=poisoned,
        data=data.name,
        target=name if trigger is not None else None,
        templates=data.templates,
        skipped=tuple(data.skipped),
    )


def attack_rates(
    predictions: Int[Tensor, " image"], labels: Int[Tensor, " image"], target: int, convention: Convention = EXACT
) -> tuple[Rate, Rate]:
    """Attack success rate and poisoned accuracy of predictions on triggered pictures."""
    counted = torch.ones_like(labels, dtype=torch.bool) if convention.asr_includes_target else labels != target
    asr = rate(int((predictions[counted] == target).sum()), int(counted.sum()))
    return asr, rate(int((predictions == labels).sum()), len(labels))


def require_attack(evaluation: Evaluation, gate: float = ASR_GATE) -> None:
    """Refuse to evaluate a defense on a model whose attack did not take.

    Raises:
        AttackFailed: the undefended attack success rate is below ``gate``.
    """
    asr = evaluation.attack_success_rate
    if asr is not None and asr.value < gate:
        raise AttackFailed(
            f"The attack did not take: it succeeds on {asr} images of {evaluation.data} without any defense, and a "
            f"defense is only evaluated from {gate:.0%} on. Train the attack longer or with more poison."
        )


def _predictions(
    model: Encoder,
    data: ImageSet,
    trigger: Trigger | None,
    vectors: Float[Tensor, "cls d_embed"],
    batch_size: int,
    progress: str | None,
) -> tuple[Tensor, Tensor]:
    guesses, truths = [], []
    for pixels, labels, _ in pictures(data, trigger, batch_size, progress):
        guesses.append(predict(model.encode_image(model.normalize(pixels)), vectors).cpu())
        truths.append(labels)
    return torch.cat(guesses), torch.cat(truths)
