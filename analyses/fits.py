"""Fitting one tuned defense to one backdoored model and measuring it on some test sets, kept on disk.

Numbers of a fit are a file of their own, and what was tuned a folder beside it, written as soon as they are there: an
interrupted fit goes on where it stopped, if it knows how, and what is there is never fitted again.

Limits: memory is this process's largest resident size, or on a GPU what it allocated there, during the fit beyond what
it held before, so an interrupted and resumed fit tells that of its last part.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from clip_decomp.cli.bench.timing import device_name, forget_peak, held_memory, peak_memory
from clip_decomp.cli.run import Subject, open_subject
from clip_decomp.data import open_data, same_data
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.evaluation import Classifier, Encoder, PromptedClassifier, evaluate, require_attack
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.models.loading import load, save_folder
from clip_decomp.results import write_json
from clip_decomp.training.streams import pair_stream
from defenses import CBPT, RVPT, CleanCLIP, FineTune, LinearProbe
from defenses.adv_pt import AdvPT
from defenses.few_shot import in_order, training_pictures
from defenses.fine_tune import CLEAN_STREAM_SEED
from defenses.inversion import BUDGETS, Inversion
from defenses.tuning import timed

#: What can be fitted, by name.
DEFENSES = ("rvpt", "vpt", "cbpt", "linear-probe", "finetune", "cleanclip", "advpt")
#: What is measured of each: ASR, clean and poisoned accuracy.
MEASURES = ("asr", "ca", "pa")
#: Settings that begin so are CBPT's inner loop's: ``inversion-budget=1,2``.
_INNER = "inversion_"
_KINDS: dict[str, type[CBPT | LinearProbe | AdvPT]] = {"cbpt": CBPT, "linear-probe": LinearProbe, "advpt": AdvPT}
_TUNED = {"finetune": FineTune, "cleanclip": CleanCLIP}

Defense = RVPT | LinearProbe | CBPT | FineTune | AdvPT


@dataclass(frozen=True)
class Fit:
    """One defense, fitted once and measured on every test set.

    Attributes:
        tower: fingerprint of the model's image tower.
        settings: of the defense, where they differ from its defaults.
        tuned_on: the data whose training pictures it learns from.
        images: at most this many test pictures of each set.
        template: of all prompts; the data's own if None.
        without_target: leave the target class out of tuning.
    """

    model: str
    tower: str
    defense: str
    settings: dict[str, Any]
    seed: int
    tuned_on: str
    tests: tuple[str, ...]
    images: int | None = None
    template: str | None = None
    without_target: bool = False

    @property
    def measured(self) -> str:
        """The test set that lies where it learns from, if one does."""
        return next((each for each in self.tests if same_data(each, self.tuned_on)), self.tests[0])

    @property
    def file(self) -> str:
        """What its numbers are kept in: another name for every other fit."""
        told = asdict(self)
        if self.settings.get("inversion_norm") == "linf":  # its usual budget was another one before
            told["settings"] = {"inversion_budget": BUDGETS["linf"], **self.settings}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        return f"{self.model.replace('/', '-')}-{self.defense}-{digest[:16]}.json"

    @property
    def name(self) -> str:
        """Of what was tuned, without the ending of its numbers' file."""
        return self.file.removesuffix(".json")

    def made(self, checkpoint: Path | None = None) -> Defense:
        """The defense before it is fitted.

        Args:
            checkpoint: where an interrupted fit goes on, of the defenses that can.

        Raises:
            SettingError: it does not know one of the settings, refuses its value, or needs the target class.
        """
        if self.defense not in DEFENSES:
            raise SettingError(f"There is no study of {self.defense!r}: choose from {', '.join(DEFENSES)}.")
        if self.template is not None and self.defense in _KINDS:
            raise SettingError(f"{self.defense} tunes what classes are told by: it takes no template.")
        if self.without_target and self.defense not in ("rvpt", "vpt"):
            raise SettingError(f"{self.defense} never predicts a class that it was not fitted to: keep the target.")
        try:
            if self.defense == "linear-probe":
                return LinearProbe(**self.settings, seed=self.seed)
            if self.defense == "cbpt":
                inner = {
                    key.removeprefix(_INNER): value for key, value in self.settings.items() if key.startswith(_INNER)
                }
                outer = {key: value for key, value in self.settings.items() if not key.startswith(_INNER)}
                made = {"inversion": Inversion(**inner)} if inner else {}
                return CBPT(**outer, **made, seed=self.seed, checkpoint=checkpoint)
            if self.defense == "advpt":
                return AdvPT(**self.settings, seed=self.seed)
            if self.defense in _TUNED:
                return _TUNED[self.defense].preset("tiny", **self.settings, seed=self.seed, checkpoint=checkpoint)
            alpha = {"alpha": 0.0} if self.defense == "vpt" else {}
            return RVPT(**alpha, **self.settings, seed=self.seed, checkpoint=checkpoint)
        except TypeError as error:
            raise SettingError(f"{self.defense} does not know these settings: {self.settings} ({error}).") from error


def run(fits: Iterable[Fit], data: str | None, folder: Path, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Measure fits, or read what was measured before, in order.

    Args:
        data: where the models' pictures are, if their cards do not say.
        folder: where each fit's numbers are kept.

    Raises:
        AttackFailed: a model's attack did not take.
    """
    for fit in fits:
        file = folder / "fits" / fit.file
        if not file.exists():
            unfinished = folder / "unfinished" / fit.name
            write_json(file, _measured(fit, data, device, unfinished, tuned(fit, folder)))
            shutil.rmtree(unfinished, ignore_errors=True)
        yield json.loads(file.read_text())


def known(fit: Fit, folder: Path) -> dict[str, Any] | None:
    """What was measured of a fit, None if it is not there yet."""
    file = folder / "fits" / fit.file
    return json.loads(file.read_text()) if file.exists() else None


def finished(folder: Path) -> Iterator[dict[str, Any]]:
    """What was measured of all fits that are there."""
    for file in sorted((folder / "fits").glob("*.json")):
        yield json.loads(file.read_text())


def tuned(fit: Fit, folder: Path) -> Path:
    """Where what a fit tuned is kept."""
    return folder / "tuned" / fit.name


def opened(fit: Fit, folder: Path, model: HookedCLIP) -> Defense | HookedCLIP:
    """A defended model from what was kept of a fit; of one that was fine-tuned, the model itself.

    Args:
        model: the undefended one.

    Raises:
        ModelError: nothing was kept, or it belongs to another model.
    """
    if fit.defense in _TUNED:
        return load(str(tuned(fit, folder)), device=str(model.device))
    return _KINDS.get(fit.defense, RVPT).load(tuned(fit, folder), model)


@lru_cache(maxsize=1)
def _subject(model: str, data: str | None, images: int | None, device: str) -> Subject:
    return open_subject(model, data, None, None, images, 0, device)


@lru_cache(maxsize=4)
def _test(spec: str, side: int, images: int | None) -> ImageSet:
    return open_data(spec, side, test=images).test


_training = lru_cache(maxsize=4)(training_pictures)


@lru_cache(maxsize=8)
def _undefended(
    model: str, tests: tuple[str, ...], template: str | None, data: str | None, images: int | None, device: str
) -> dict[str, dict[str, float]]:
    """The same for all seeds and settings of a defense."""
    subject = _subject(model, data, images, device)
    return _numbers(subject.model, subject, tests, template, images, gate=True)


def _numbers(
    encoder: Encoder | Classifier | PromptedClassifier,
    subject: Subject,
    tests: Sequence[str],
    template: str | None,
    images: int | None,
    gate: bool = False,
) -> dict[str, dict[str, float]]:
    """The measures on every test set; with ``gate`` the attack must have taken on the first."""
    found = {}
    for name in tests:
        test = _test(name, subject.model.visual.image_size, images)
        if template is not None:
            test = replace(test, templates=(template,))
        each = evaluate(encoder, test, subject.trigger, subject.target)
        assert each.attack_success_rate is not None
        assert each.poisoned_accuracy is not None
        if gate and name == tests[0]:
            require_attack(each)
        rates = (each.attack_success_rate, each.clean_accuracy, each.poisoned_accuracy)
        found[name] = {key: rate.value for key, rate in zip(MEASURES, rates, strict=True)}
    return found


def _measured(fit: Fit, data: str | None, device: str, unfinished: Path, kept: Path) -> dict[str, Any]:
    subject = _subject(fit.model, data, fit.images, device)
    trigger, target = subject.trigger, subject.target
    if trigger is None or target is None:
        raise SettingError(f"{fit.model} carries no attack on its card.")
    if fingerprint(subject.model) != fit.tower:
        raise DataError(f"{fit.model} is another model by now.")
    defense = fit.made(unfinished)
    before = _undefended(fit.model, fit.tests, fit.template, data, fit.images, device)
    held = held_memory(device)
    forget_peak(device)
    pictures, seconds = _tune(defense, fit, subject)
    memory = max(0.0, peak_memory(device) - held)
    after = _numbers(defense, subject, fit.tests, fit.template, fit.images)
    _keep(defense, kept)
    return {
        "fit": asdict(fit),
        "attack": trigger.name,
        "target": target,
        "before": before,
        "after": after,
        "seconds": seconds,
        "memory": memory,
        "device": device_name(device),
        "parameters": defense.parameters,
        "pictures": pictures,
        "history": getattr(defense, "history_", [])[-1:],
    }


def _tune(defense: Defense, fit: Fit, subject: Subject) -> tuple[int, float]:
    """Fit a defense; returns how many pictures it learned from, and the seconds that it took."""
    model, side = subject.model, subject.model.visual.image_size
    if isinstance(defense, FineTune):
        stream, _ = pair_stream(fit.tuned_on, side, CLEAN_STREAM_SEED + fit.seed, measured=fit.measured)
        return defense.pairs, timed(defense, lambda: defense.fit(model, stream))
    train = _training(fit.tuned_on, side, 0, defense.shots, fit.template, fit.measured)
    if isinstance(defense, RVPT):
        without = (subject.target,) if fit.without_target and subject.target is not None else ()
        seconds = timed(defense, lambda: defense.fit(model, train, without=without))
    else:
        known = in_order(train, _test(fit.tests[0], side, fit.images).class_names)
        seconds = timed(defense, lambda: defense.fit(model, known))
    return len(defense.chosen_), seconds


def _keep(defense: Defense, folder: Path) -> None:
    if isinstance(defense, FineTune):
        save_folder(defense.tuned_, folder, defense.tuned_.card)
    else:
        defense.save(folder)
