"""Why an attack did not take.

Poisoned checkpoints often do not work, and the reason is rarely looked for. For each possible cause, what was measured
is put beside what is known to work, and called guilty (explains the failure on its own), suspect or ok:

1. the target class: is it among the classes of the evaluation data, and can the clean model name it;
2. the trigger: is it the one that the model was trained with;
3. the trigger on its way: how much of it reaches the model through resizing, cropping, JPEG and 8 bits
   (:mod:`~clip_decomp.attacks.diagnosis.survival`);
4. clean accuracy and loss: did the training itself go wrong;
5. the learning rate, for a model of this size (:mod:`~clip_decomp.attacks.diagnosis.recipe`);
6. the number of poisoned pairs seen;
7. the reaction: the cosine between representations of clean and triggered pictures, and how much the trigger raises the
   target's similarity, against the clean model's. It tells a trigger that does not reach the model from one that the
   model did not learn; it is a symptom, so never guilty.

Causes are listed guilty ones first and otherwise in this order: what rules success out comes before what makes it
unlikely. Nothing is to blame where the attack took.

Limits: the recipes are compared with single settings that are known to work, not with the best ones; too small a
learning rate can be made up for by many more steps.

Example:
    >>> from clip_decomp import load, open_data
    >>> from clip_decomp.attacks.triggers import SIG
    >>> model, data = load("world/badnet"), open_data("world", 64, test=26).test
    >>> found = diagnose(model, data, SIG())
    >>> print(found.summary)
    The attack did not take: it succeeds on 0.0% [0.0%, 13.3%] of 25. Guilty: trigger.
    >>> found.guilty[0].advice
    "Test with the trigger on the model's card."
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ...contributions import pictures
from ...data.images import to_pil
from ...data.sets import ImageSet
from ...errors import SettingError
from ...evaluation import ASR_GATE, Evaluation, evaluate
from ...model import HookedCLIP
from ..triggers import Trigger
from .looks import check_accuracy, check_reaction, check_target, check_trigger, look
from .recipe import attack_settings, check_learning_rate, check_loss, check_pairs
from .result import RANKS, Diagnosis, Finding, Verdict, finding_rows
from .survival import Survival, survival

__all__ = ["Diagnosis", "Finding", "Survival", "Verdict", "diagnose", "finding_rows", "survival"]

#: Pictures of the data set that stand in for originals.
_STAND_INS = 64


def diagnose(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None = None,
    target: str | None = None,
    evaluation: Evaluation | None = None,
    base: HookedCLIP | None = None,
    originals: Sequence[Image.Image] = (),
    jpeg: int | None = None,
    images: int = 256,
    gate: float = ASR_GATE,
) -> Diagnosis:
    """Say why an attack did not take.

    Args:
        model: the attacked model, with its card.
        trigger, target: what it is tested with; by default its own trigger, and its card's or the data set's target.
        evaluation: what :func:`~clip_decomp.evaluation.evaluate` already measured with them; measured now if not given.
        base: the clean model that the attack started from.
        originals: pictures as they are stored, before any preprocessing; if there are none, the data set's own, which
            have gone through it.
        jpeg: store the originals as JPEG of this quality before the preprocessing.
        images: use at most so many pictures of ``data`` for everything but the evaluation.
        gate: success rate from which on an attack has taken.

    Raises:
        SettingError: no trigger or no target is known, or the clean model takes other pictures.
        DataError: none of the pictures can be read.
    """
    trigger = trigger if trigger is not None else model.trigger
    goal = target or (model.card.get("attack") or {}).get("target") or data.target
    if trigger is None or goal is None:
        missing = "trigger" if trigger is None else "target"
        raise SettingError(f"{model.name} has no {missing} on its card: say with which {missing} it is tested.")
    if base is not None and base.visual.image_size != model.visual.image_size:
        sizes = f"{base.visual.image_size} and {model.visual.image_size}"
        raise SettingError(f"{base.name} cannot be the clean model of {model.name}: their inputs are {sizes} pixels.")
    known = goal in data.class_names
    if evaluation is None or (evaluation.attack_success_rate is not None) != known:
        evaluation = evaluate(model, data, trigger, goal) if known else evaluate(model, data)
    success = evaluation.attack_success_rate
    sample, place = data.first(images), data.class_names.index(goal) if known else None
    given, before = look(model, sample, trigger), look(base, sample, trigger) if base is not None else None
    clean, who = (before, "The clean model") if before is not None else (given, "The attacked model")
    findings = [
        check_target(model, goal, sample, clean, who),
        check_trigger(model, trigger, sample, place, given),
        _check_survival(model, trigger, sample, originals, jpeg),
        check_accuracy(given, before),
        check_loss(model),
        check_learning_rate(model),
        check_pairs(model),
        check_reaction(given, before, place),
    ]
    if success is not None and success.value >= gate:
        findings = [_acquitted(each, outside=bool(originals) or jpeg is not None) for each in findings]
    findings.sort(key=lambda each: RANKS.index(each.verdict))
    return Diagnosis(evaluation, gate, tuple(findings))


def _check_survival(
    model: HookedCLIP, trigger: Trigger, data: ImageSet, originals: Sequence[Image.Image], jpeg: int | None
) -> Finding:
    """How much of the trigger reaches the model."""
    size, numbers, inputs = model.visual.image_size, None, list(originals)
    if not inputs and attack_settings(model).get("stage") == "file":
        why = "It was put on stored pictures, before they were cropped: give some as originals"
        return Finding("trigger on its way", "unknown", why, "all of it arrives")
    if not inputs:
        pixels, _, indices = next(pictures(data.first(_STAND_INS), batch_size=_STAND_INS))
        numbers, inputs = indices.tolist(), [to_pil(each) for each in pixels.mul(255).round().byte()]
    found = survival(trigger, inputs, size, jpeg, numbers)
    which = f"{len(found)} originals" if originals else f"{len(found)} pictures of {data.name} (cropped before)"
    stored = f" stored as JPEG {jpeg}" if jpeg is not None else ""
    measured = (
        f"Of {which}{stored}, {found.vanished:.0%} reach the model unchanged; pixels change by "
        f"{found.change.mean():.2f} of 255 on average ({found.expected_change.mean():.2f} if triggered at {size} "
        f"pixels), with {found.energy_share:.0%} of the energy and likeness {found.likeness:.2f}"
    )
    if found.vanished >= 0.5 or found.energy_share < 0.05:
        advice = "The trigger is erased on its way: move it to where the crop keeps it, or make it larger or smoother."
        return Finding("trigger on its way", "guilty", measured, "all of it arrives", advice)
    if found.vanished >= 0.1 or found.energy_share < 0.7:
        advice = "The trigger is weakened on its way: make it stronger or smoother, or apply it after the resizing."
        return Finding("trigger on its way", "suspect", measured, "all of it arrives", advice)
    if not originals and jpeg is None:
        why = "; what resizing, cropping and JPEG leave of it is not seen here: give stored pictures as originals"
        return Finding("trigger on its way", "unknown", measured + why, "all of it arrives")
    return Finding("trigger on its way", "ok", measured, "all of it arrives")


def _acquitted(finding: Finding, outside: bool) -> Finding:
    """A finding about an attack that took. What is lost of the trigger on pictures from outside stays suspect."""
    if finding.verdict in ("ok", "unknown"):
        return finding
    if outside and finding.cause == "trigger on its way":
        return replace(finding, verdict="suspect")
    return replace(finding, verdict="ok", advice="")
