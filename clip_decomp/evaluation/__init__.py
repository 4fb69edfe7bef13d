"""The evaluator: clean accuracy, attack success rate, poisoned accuracy, with intervals, on named images.

* clean accuracy: share of clean pictures given their true class;
* attack success rate (ASR): share of triggered pictures *whose true class is not the target* given the target (all
  triggered pictures under the paper's convention);
* poisoned accuracy: share of triggered pictures given their true class.

Intervals are Wilson's at 95 %. Classes are told by zero-shot prompts from the data set's own templates, the same before
and after a defense; a trigger with a word puts it before the prompts of triggered pictures. The same shares are known
for each class.

Example:
    >>> from clip_decomp import load, open_data
    >>> model = load("world/badnet")
    >>> found = evaluate(model, open_data("world", 64, test=52).test, model.trigger, split="test")
    >>> print(found.measured)
    52 pictures of world (test split); prompts: 'a photo of a {}.'; ASR counts the 48 triggered pictures whose true
    class is not the target, 'banana'.
    >>> found.per_class[0].name, found.per_class[0].clean, found.per_class[0].success
    ('banana', Tally(hits=4, count=4), None)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..attacks.triggers import Trigger
from ..contributions import pictures
from ..convention import EXACT, Convention
from ..data.sets import BATCH_SIZE, ImageSet
from ..errors import AttackFailed, DataError
from ..zeroshot import choose, class_vectors
from .rates import Rate, Tally, interval_metrics, rate
from .result import ClassTallies, Evaluation

__all__ = [
    "ASR_GATE",
    "ClassTallies",
    "Classifier",
    "Encoder",
    "Evaluation",
    "PromptedClassifier",
    "Rate",
    "Scorer",
    "Tally",
    "attack_rates",
    "evaluate",
    "interval_metrics",
    "rate",
    "require_attack",
    "scorer",
]

#: Pixels in 0..1 to a score for every class.
Scorer = Callable[[Float[Tensor, "batch 3 row column"]], Float[Tensor, "batch cls"]]
#: Below this undefended success rate a defense is not evaluated.
ASR_GATE = 0.8


class Encoder(Protocol):
    """What the evaluator needs of a model, defended or not."""

    def normalize(self, pixels: Tensor) -> Tensor: ...
    def encode_image(self, images: Tensor) -> Tensor: ...
    def encode_text(self, texts: list[str]) -> Tensor: ...


@runtime_checkable
class Classifier(Protocol):
    """What the evaluator needs of a model that tells fixed classes apart without texts, such as a linear probe."""

    class_names_: tuple[str, ...]

    def normalize(self, pixels: Tensor) -> Tensor: ...
    def classify(self, images: Tensor) -> Float[Tensor, "batch cls"]: ...


@runtime_checkable
class PromptedClassifier(Protocol):
    """A model whose classes have representations of their own, such as tuned prompts, instead of templates' ones."""

    class_names_: tuple[str, ...]

    def normalize(self, pixels: Tensor) -> Tensor: ...
    def encode_image(self, images: Tensor) -> Tensor: ...
    def class_vectors(self, word: str = "") -> Float[Tensor, "cls d_embed"]: ...


@torch.no_grad()
def evaluate(
    model: Encoder | Classifier | PromptedClassifier,
    data: ImageSet,
    trigger: Trigger | None = None,
    target: str | None = None,
    convention: Convention = EXACT,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
    split: str | None = None,
) -> Evaluation:
    """Measure a model on clean and, with a trigger, on triggered pictures, with the data set's own templates.

    Args:
        target: the attack's target class; the data set's by default.
        split: what part of the data this is, for the record.

    Raises:
        DataError: no target class is known, or it is not among the classes; a classifier of other classes.
    """
    plain = called = scorer(model, data.class_names, data.templates)
    if trigger is not None and trigger.word:
        called = scorer(model, data.class_names, data.templates, word=trigger.word)
    clean, labels = _predictions(plain, data, None, batch_size, "clean" if progress else None)
    asr = poisoned = triggered = goal = None
    name = target or data.target
    if trigger is not None:
        if name is None:
            raise DataError(f"{data.name}: no target class is known for the attack; name one of its classes.")
        goal = data.class_index(name)
        triggered = _predictions(called, data, trigger, batch_size, "triggered" if progress else None)
        asr, poisoned = attack_rates(*triggered, goal, convention)
    return Evaluation(
        clean_accuracy=rate(int((clean == labels).sum()), len(labels)),
        attack_success_rate=asr,
        poisoned_accuracy=poisoned,
        data=data.name,
        target=name if trigger is not None else None,
        templates=data.templates,
        skipped=tuple(data.skipped),
        split=split,
        left_out=len(data) - len(labels),
        word=trigger.word if trigger is not None else "",
        asr_includes_target=convention.asr_includes_target,
        per_class=tuple(_by_class(data.class_names, (clean, labels), triggered, goal, convention)),
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


def scorer(
    model: Encoder | Classifier | PromptedClassifier,
    class_names: Sequence[str],
    templates: Sequence[str],
    scale: float = 1.0,
    word: str = "",
) -> Scorer:
    """A model of whatever kind as a function of pixels in 0..1, which scores the classes on the pixels' own device.

    Args:
        scale: the inverse temperature of cosines; classifiers have their own.
        word: of a trigger, before the prompts.

    A classifier of more classes chooses among those that are asked for, as class texts do.

    Raises:
        DataError: a classifier that lacks one of the classes.
    """
    if isinstance(model, Classifier):
        columns = _columns(model.class_names_, class_names)
        return lambda pixels: model.classify(model.normalize(pixels))[:, columns].to(pixels.device)
    if isinstance(model, PromptedClassifier):
        vectors = model.class_vectors(word)[_columns(model.class_names_, class_names)]
    else:
        vectors = class_vectors(model, class_names, [word + template for template in templates])

    def scores(pixels: Tensor) -> Tensor:
        features = model.encode_image(model.normalize(pixels).to(vectors.device))
        return (scale * F.normalize(features.float(), dim=-1) @ vectors.T).to(pixels.device)

    return scores


def _columns(known: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Places of classes among those of a classifier."""
    places = {name: place for place, name in enumerate(known)}
    if not set(wanted) <= set(known):
        raise DataError(f"The classifier was fitted to other classes: {', '.join(known)}.")
    return [places[name] for name in wanted]


def _predictions(
    scores: Scorer, data: ImageSet, trigger: Trigger | None, batch_size: int, progress: str | None
) -> tuple[Tensor, Tensor]:
    guesses, truths = [], []
    for pixels, labels, _ in pictures(data, trigger, batch_size, progress):
        guesses.append(choose(scores(pixels)).cpu())
        truths.append(labels)
    return torch.cat(guesses), torch.cat(truths)


def _by_class(
    names: Sequence[str],
    clean: tuple[Tensor, Tensor],
    triggered: tuple[Tensor, Tensor] | None,
    target: int | None,
    convention: Convention,
) -> Iterator[ClassTallies]:
    """Counts of each class, of predictions and labels; ``triggered`` and ``target`` are both known or neither."""
    for index, name in enumerate(names):
        success = poisoned = None
        if triggered is not None:
            poisoned = _tally(*triggered, index, index)
            if target != index or convention.asr_includes_target:
                success = _tally(*triggered, index, target)
        yield ClassTallies(name, _tally(*clean, index, index), success, poisoned)


def _tally(guesses: Tensor, truths: Tensor, label: int, wanted: int | None) -> Tally | None:
    """How many pictures of class ``label`` are given class ``wanted``; None if there are no such pictures."""
    own = guesses[truths == label]
    return Tally(int((own == wanted).sum()), len(own)) if len(own) else None
