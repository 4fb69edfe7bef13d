"""What models make of clean and triggered pictures, and what that says of the failure."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ...contributions import pictures
from ...data.sets import ImageSet
from ...errors import nearest
from ...evaluation import ASR_GATE, rate
from ...model import HookedCLIP
from ...zeroshot import sided_vectors
from ..triggers import Trigger
from .result import Finding


@dataclass(frozen=True)
class Look:
    """One model on clean pictures and their triggered copies.

    Attributes:
        scores, triggered_scores: cosines with the classes' text vectors.
        cosine: between each picture's representation and its triggered copy's.
    """

    scores: Float[Tensor, "image cls"]
    triggered_scores: Float[Tensor, "image cls"]
    cosine: Float[Tensor, " image"]
    labels: Int[Tensor, " image"]

    @property
    def accuracy(self) -> float:
        """Clean accuracy."""
        return float((self.scores.argmax(1) == self.labels).float().mean())

    def success(self, target: int) -> float:
        """Share of triggered pictures of other classes that are given the target; nan without such pictures."""
        return float((self.triggered_scores[self.labels != target].argmax(1) == target).float().mean())

    def rise(self, target: int) -> float:
        """How much the trigger raises the target's cosine, mean over pictures of other classes."""
        return float((self.triggered_scores - self.scores)[self.labels != target, target].mean())

    def lead(self, target: int) -> float:
        """How far the target's cosine is below the best one on clean pictures of other classes, on average."""
        foreign = self.scores[self.labels != target]
        return float((foreign.amax(1) - foreign[:, target]).mean())


@torch.no_grad()
def look(model: HookedCLIP, data: ImageSet, trigger: Trigger) -> Look:
    """Encode every picture with and without the trigger."""
    vectors, worded = sided_vectors(model, data, trigger)
    parts: list[tuple[Tensor, ...]] = []
    for pixels, labels, indices in pictures(data):
        plain, called = (
            F.normalize(model.encode_image(model.normalize(each)).float(), dim=-1)
            for each in (pixels, trigger(pixels, indices))
        )
        parts.append((plain @ vectors.T, called @ worded.T, (plain * called).sum(1), labels))
    return Look(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def check_target(model: HookedCLIP, target: str, data: ImageSet, clean: Look, who: str) -> Finding:
    """Whether the target is what the attack aimed at, among the classes, and known to the clean model.

    Args:
        clean: of the clean model, or of the attacked one where there is none; ``who`` says which.
    """
    aimed = (model.card.get("attack") or {}).get("target", target)
    if aimed != target:
        measured = f"The model was trained for {aimed!r} and is tested for {target!r}"
        return Finding("target class", "guilty", measured, "the same target", f"Test for {aimed!r}.")
    if target not in data.class_names:
        near = ", ".join(repr(name) for name in nearest(target, data.class_names))
        measured = f"{target!r} is not among the {len(data.class_names)} classes of {data.name}"
        advice = f"Aim at a class that is, such as {near}."
        return Finding("target class", "guilty", measured, "a class of the evaluation data", advice)
    goal = data.class_names.index(target)
    own = clean.scores[clean.labels == goal].argmax(1)
    if not len(own):
        return Finding("target class", "ok", f"{target!r} is a class of {data.name}, without pictures here", "")
    named = rate(int((own == goal).sum()), len(own))
    wrong = Counter(data.class_names[k] for k in own.tolist() if k != goal)
    confused = ", confused with " + ", ".join(name for name, _ in wrong.most_common(3)) if wrong else ""
    measured = f"{who} names {target!r} on {named} clean pictures{confused}"
    good = f"about its accuracy over all classes, {clean.accuracy:.1%}"
    if named.high < clean.accuracy / 2:
        advice = "Aim at a class that the clean model knows, or write its name as the model's captions do."
        return Finding("target class", "suspect", measured, good, advice)
    return Finding("target class", "ok", measured, good)


def check_trigger(model: HookedCLIP, trigger: Trigger, data: ImageSet, goal: int | None, given: Look) -> Finding:
    """Whether the model was trained with the trigger that it is tested with."""
    own = model.trigger
    trained = own.settings() if own is not None else (model.card.get("attack") or {}).get("trigger")
    if trained is None:
        return Finding("trigger", "unknown", "The model's card does not say what it was trained with", "")
    changes = _changes(trained, trigger.settings())
    if not changes and own is not None and _differ(own.tensors(), trigger.tensors()):
        changes = ["what it learned, though its settings are the same"]
    if not changes:
        return Finding("trigger", "ok", f"{trigger.name}, with the settings it was trained with", "")
    measured = f"Trained with another trigger than tested with: {'; '.join(changes)}"
    advice = "Test with the trigger on the model's card."
    if own is None or goal is None:
        return Finding("trigger", "guilty", measured, "the same trigger", advice)
    before, now = look(model, data, own).success(goal), given.success(goal)
    measured += f". On {len(given.labels)} pictures its own succeeds on {before:.1%}, this one on {now:.1%}"
    if before >= ASR_GATE or before - now > 0.2:
        return Finding("trigger", "guilty", measured, "the same trigger", advice)
    return Finding("trigger", "suspect", measured, "the same trigger", f"{advice} That alone will not help.")


def check_accuracy(given: Look, base: Look | None) -> Finding:
    """Whether the fine-tuning ruined the model."""
    classes, after = given.scores.shape[1], given.accuracy
    advice = "Fine-tuning broke the model: lower the learning rate, and look at its training log."
    if base is None:
        hits = rate(round(after * len(given.labels)), len(given.labels))
        measured, good = f"{hits} clean pictures are named right", f"well above guessing, {1 / classes:.1%}"
        broken = hits.low <= 1 / classes
        return Finding("clean accuracy", "guilty" if broken else "ok", measured, good, advice if broken else "")
    lost = base.accuracy - after
    measured = f"{after:.1%}, {base.accuracy:.1%} before the attack ({len(given.labels)} pictures)"
    verdict = "guilty" if lost > 0.2 else "suspect" if lost > 0.05 else "ok"
    return Finding("clean accuracy", verdict, measured, "at most 2 points lost", "" if verdict == "ok" else advice)


def check_reaction(given: Look, base: Look | None, goal: int | None) -> Finding:
    """Whether the trigger reaches the representation, and whether the model learned what it stands for."""
    if goal is None or not (given.labels != goal).any():
        return Finding(
            "reaction", "unknown", "There is no target, or no picture of another class, to measure it on", ""
        )
    rise, need, cosine = given.rise(goal), given.lead(goal), float(given.cosine.mean())
    before = "" if base is None else f" (clean model: {float(base.cosine.mean()):.4f})"
    first = "" if base is None else f" (clean model: {base.rise(goal):+.3f})"
    measured = (
        f"The trigger turns a representation to cosine {cosine:.4f}{before} and raises the target's similarity by "
        f"{rise:+.3f}{first}, where {need:.3f} are missing on clean pictures"
    )
    gained = rise - (base.rise(goal) if base is not None else 0.0)
    if cosine > 0.999:
        advice = "The trigger does not reach the representation: make it stronger, or look for where it is lost."
    elif gained < 0.1 * need:
        advice = "The model sees the trigger and did not learn what it stands for: train longer or on more poison."
    else:
        advice = "The model learned a part of it: train longer or on more poison."
    return Finding("reaction", "suspect", measured, "a rise of about what is missing", advice)


def _changes(trained: dict, tested: dict) -> list[str]:
    """Settings that differ, as they look on a card."""
    trained, tested = (json.loads(json.dumps(each)) for each in (trained, tested))
    if trained.get("name") != tested.get("name"):
        return [f"{trained.get('name')} in training, {tested.get('name')} in the test"]
    keys = sorted({*trained, *tested})
    return [
        f"{key} {trained.get(key)!r} in training, {tested.get(key)!r} in the test"
        for key in keys
        if trained.get(key) != tested.get(key)
    ]


def _differ(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() != second.keys() or any(
        first[key].shape != second[key].shape or not torch.allclose(first[key].float(), second[key].float(), atol=1e-3)
        for key in first
    )
