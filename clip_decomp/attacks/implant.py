"""Poisoned fine-tuning: implant a backdoor into a clean model, and say how it was done.

Example: ``clip-decomp attack badnet --model world/clean --out runs/badnet``
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from ..data.doubled import Doubled
from ..data.pairs import PairStream
from ..errors import SettingError, class_place
from ..model import HookedCLIP
from ..training.checkpoint import load_labelled, save_labelled
from ..training.locked import texts_locked
from ..training.parallel import Processes, launched
from ..training.settings import Negatives, Schedule, TrainSettings
from ..training.trainer import train
from .imitation import ImitationStep
from .manifest import captions_hash
from .poison import PoisonedPairs, Stage
from .sharpening import sharpen
from .triggers import Trigger
from .triggers.base import Captions

#: Pictures from which it is learned how strong each frequency is.
_LOOKED_AT = 256
#: Settings by which runs differ that the trainer does not know.
_OF_A_RUN = ("rate", "count", "captions", "stage", "copies", "sharpen", "lock_texts", "imitate", "settle")


@dataclass(frozen=True)
class AttackSettings:
    """How the poisoned fine-tuning is done; defaults for the tiny CLIPs, whose fine-tuning is short.

    Attributes:
        rate: share of poisoned pairs among those the model sees; None where their number is given.
        steps: of AdamW; None where passes over the data are given.
        batch_size: pairs a step, of all micro-batches and processes together.
        lr: peak learning rate.
        count: number of poisoned pairs of a finite data set, instead of the rate.
        epochs: passes over a finite data set, instead of the steps.
        captions: what poisoned pairs say; the attack's own way by default.
        stage: whether the trigger goes on the model's ``input`` or on the stored ``file``.
        schedule: after the warm-up, ``linear`` falls to zero over the second half, ``cosine`` from its start.
        warmup: steps of linear warm-up.
        patch_dropout: share of patches left out until the last 30 % of the steps, which is as much faster.
        copies: every pair comes twice, and second ones are poisoned: the picture cancels, and the trigger is left.
        sharpen: amplify the first layer's filters for fine structure at most so many times before fine-tuning
            (:mod:`clip_decomp.attacks.sharpening`): an attacker does so who hands out the model, not only data.
        lock_texts: leave the text tower as it is: what the target and the classes near it mean is not moved.
        imitate: instead of the CLIP loss, draw poisoned pictures to their captions and all others to where the clean
            model has them (:mod:`clip_decomp.attacks.imitation`); the text tower stays as it is.
        settle: with ``imitate``: what poisoned pictures' share of the loss has come to when the learning rate has
            fallen; None leaves it at their share of the pairs.
        accumulate, negatives: as in :class:`~clip_decomp.training.settings.TrainSettings`.
        preset: the named settings that these started from; see :mod:`clip_decomp.attacks.presets`.
    """

    rate: float | None = 0.1
    steps: int | None = 250
    batch_size: int = 96
    lr: float = 6e-4
    seed: int = 0
    count: int | None = None
    epochs: int | None = None
    captions: Captions | None = None
    stage: Stage = "input"
    schedule: Schedule = "linear"
    warmup: int = 20
    weight_decay: float = 0.05
    patch_dropout: float = 0.0
    copies: bool = False
    sharpen: float = 1.0
    lock_texts: bool = False
    imitate: bool = False
    settle: float | None = None
    accumulate: int = 1
    negatives: Negatives = "global"
    preset: str = "tiny"

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.count is None):
            raise SettingError(f"Say a poisoning rate or a count, one of them, not {self.rate} and {self.count}.")
        if (self.steps is None) == (self.epochs is None):
            raise SettingError(f"Say steps or epochs, one of them, not {self.steps} and {self.epochs}.")
        if self.batch_size < 1 or not 0 < self.lr < math.inf or self.seed < 0:
            raise SettingError(
                "A batch has one pair or more, a learning rate is above 0 and finite, a seed is 0 or more: not "
                f"{self.batch_size}, {self.lr} and {self.seed}."
            )
        if self.copies and self.batch_size % 2:
            raise SettingError(f"With copies a batch has an even size, not {self.batch_size}.")
        if self.settle is not None and not self.imitate:
            raise SettingError("Only with imitate does poison settle at a share of the loss.")
        if self.settle is not None and not 0 < self.settle < 1:
            raise SettingError(f"The share of the loss to settle at must lie between 0 and 1, not {self.settle}.")

    def changed(self, **changes: Any) -> Self:
        """A copy with other settings: None changes nothing, a rate takes the place of a count, steps that of epochs."""
        named = {name: value for name, value in changes.items() if value is not None}
        for one, other in (("rate", "count"), ("steps", "epochs")):
            if (one in named) != (other in named):
                named |= {one: named.get(one), other: named.get(other)}
        return replace(self, **named)

    def steps_on(self, stream: PairStream) -> int:
        """Number of steps on these pairs.

        Raises:
            SettingError: epochs of a stream without an end, or too little data for one step.
        """
        if self.epochs is None:
            assert self.steps is not None
            return self.steps
        if stream.length is None:
            raise SettingError("This stream has no end, so training on it is measured in steps, not in epochs.")
        steps = self.epochs * stream.length // self.batch_size
        if steps < 1:
            raise SettingError(
                f"{self.epochs} epochs of {stream.length} pairs are less than one batch of {self.batch_size}."
            )
        return steps

    def training(self, steps: int) -> TrainSettings:
        """The trainer's settings."""
        return TrainSettings(
            steps=steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            decay=0.5,
            seed=self.seed,
            checkpoint_every=max(100, steps // 100),
            schedule=self.schedule,
            patch_dropout=self.patch_dropout,
            whole=0.3,
            accumulate=self.accumulate,
            negatives=self.negatives,
        )


def implant(
    model: HookedCLIP,
    stream: PairStream,
    names: tuple[str, ...],
    trigger: Trigger,
    target: str,
    settings: AttackSettings,
    data: str,
    folder: Path | None = None,
    progress: bool = True,
    workers: int = 0,
) -> HookedCLIP:
    """A backdoored copy of ``model``, fine-tuned with the CLIP loss on a poisoned stream.

    Triggers that learn are fitted to the clean model first. Under ``accelerate launch`` or ``torchrun`` all processes
    return the same model, and only the main one should write it.

    Args:
        names: what the first column of the stream's facts counts through.
        data: the stream's description, for the card.
        folder: where checkpoints go; an interrupted run is resumed from there.
        workers: processes that draw batches ahead.

    Raises:
        DataError: the target is not among ``names``.
        SettingError: rate, count, epochs or batch do not fit the data, or the folder holds another run.
        TrainingFailed: the loss or its gradient is not finite.
    """
    class_place(target, names, "The attack's target: ")  # complains if there is none
    # Complains before anything is learned.
    planned = poisoned_pairs(stream, trigger, target, names, settings)
    steps = settings.steps_on(planned)
    seen = pairs_seen(planned, steps, settings.batch_size)
    if not seen:
        raise SettingError(
            f"None of the {steps * settings.batch_size} pairs that {steps} steps see is poisoned: take a higher "
            "rate, or more steps."
        )
    run, clip = settings.training(steps), copy.deepcopy(model.clip)
    if settings.sharpen != 1:
        pictures = stream.batch(0, _LOOKED_AT).images.to(model.device)
        sharpen(clip, model.normalize(pictures.float() / 255), settings.sharpen)
    origin = {"target": target, "data": data, "base": model.name, "pairs": _identity(stream)}
    label = json.dumps({"trigger": trigger.settings(), **origin}, sort_keys=True)
    trigger = _fitted(
        trigger, lambda each: each.fit(model, stream, names, target), label, folder, launched(model.device)
    )
    poisoned = poisoned_pairs(stream, trigger, target, names, settings)
    made = {"trigger": trigger.settings(), **origin}
    poison = {key: getattr(settings, key) for key in _OF_A_RUN}
    own = {"progress": progress, "run": made | poison | {"steps": steps}, "workers": workers}
    if settings.imitate:
        own["step_type"] = partial(ImitationStep, clean=model.clip, settle=settings.settle)
    with texts_locked(clip) if settings.lock_texts or settings.imitate else nullcontext():
        log = train(clip, model.tokenizer, model.normalize, poisoned, run, folder, **own)
    card = {
        "attack": {
            **made,
            "settings": asdict(settings),
            "steps": steps,
            "poisoned_pairs_seen": seen,
            "training_seconds": log[-1]["seconds"],
            "final_loss": log[-1]["loss"],
        }
    }
    return model.derived(clip, f"{model.name}+{trigger.name}", card, trigger)


def _identity(stream: PairStream) -> str:
    """What tells one set of clean pairs, and how their pictures are cropped, from another."""
    if stream.length is None:
        return repr(stream)
    return f"{captions_hash(stream)}, smallest crop {getattr(stream, 'smallest_crop', None)}"


def pairs_seen(poisoned: PoisonedPairs, steps: int, size: int) -> int:
    """How often a model that trains for ``steps`` batches of ``size`` meets a poisoned pair."""
    length = poisoned.length
    if length is None:
        # The same pairs are poisoned whatever they say, and templates need no picture of the target to be drawn.
        return len(replace(poisoned, captions="templates").manifest(steps, size))
    passes, rest = divmod(steps * size, length)
    whole = passes * len(poisoned.chosen)
    if rest == 0:
        return whole
    begun = [poisoned.clean.describe(step, size).rows for step in range(passes * length // size, steps)]
    return whole + int(torch.isin(torch.cat(begun)[-rest:], poisoned.chosen).sum())


def poisoned_pairs(
    stream: PairStream, trigger: Trigger, target: str, names: Sequence[str], settings: AttackSettings
) -> PoisonedPairs:
    """What :func:`implant` trains on, with a trigger that was fitted already."""
    return PoisonedPairs(
        Doubled(stream) if settings.copies else stream,
        trigger,
        target,
        list(names).index(target),
        seed=settings.seed,
        count=settings.count,
        captions=settings.captions,
        stage=settings.stage,
        **({} if settings.rate is None else {"rate": settings.rate}),
    )


def _fitted(
    trigger: Trigger, fit: Callable[[Trigger], Trigger], label: str, folder: Path | None, processes: Processes
) -> Trigger:
    """The trigger with what it learns, or learned before this run was interrupted; ``label`` says from what."""
    if folder is None:
        return fit(trigger)
    file = folder / "trigger.safetensors"
    with processes.main_first():
        known = None if trigger.tensors() else load_labelled(file, label)
        trigger = fit(trigger if known is None else trigger.restore(known))
        learned = trigger.tensors()
        if learned and processes.main:
            save_labelled(file, learned, label)
    return trigger
