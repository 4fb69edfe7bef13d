"""Tuned defenses on any models: attacks, seeds, swept settings and test sets, one fit after another.

Every fit is kept in a file of its own as soon as it is measured, so an interrupted study goes on where it stopped, and
a larger one takes over what a smaller one measured.

Example:
    >>> sweep(["alpha=0,2", "length=10"])
    [{'alpha': 0, 'length': 10}, {'alpha': 2, 'length': 10}]
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from clip_decomp.cli.run import Subject, open_subject
from clip_decomp.data import open_data
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.evaluation import Classifier, Encoder, PromptedClassifier, evaluate, require_attack
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.results import prefix, write_json
from defenses import CBPT, RVPT, LinearProbe
from defenses.few_shot import training_pictures
from defenses.inversion import Inversion
from defenses.tuning import timed

DEFENSES = ("rvpt", "vpt", "cbpt", "linear-probe")
_MEASURES = ("asr", "ca", "pa")
#: Settings that begin so are CBPT's inner loop's: ``inversion-budget=1,2``.
_INNER = "inversion_"


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
    def file(self) -> str:
        """What its numbers are kept in: another name for every other fit."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.model.replace('/', '-')}-{self.defense}-{digest[:16]}.json"

    def made(self, checkpoint: Path | None = None) -> RVPT | LinearProbe | CBPT:
        """The defense before it is fitted.

        Args:
            checkpoint: where an interrupted fit goes on, of the defenses that can.

        Raises:
            SettingError: it does not know one of the settings, refuses its value, or needs the target class.
        """
        if self.defense not in DEFENSES:
            raise SettingError(f"There is no study of {self.defense!r}: choose from {', '.join(DEFENSES)}.")
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
                return CBPT(**outer, inversion=Inversion(**inner), seed=self.seed, checkpoint=checkpoint)
            alpha = {"alpha": 0.0} if self.defense == "vpt" else {}
            return RVPT(**alpha, **self.settings, seed=self.seed, checkpoint=checkpoint)
        except TypeError as error:
            raise SettingError(f"{self.defense} does not know these settings: {self.settings} ({error}).") from error


def sweep(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of what texts such as ``alpha=0,1,2`` say.

    Raises:
        SettingError: a text of another form.
    """
    axes = []
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise SettingError(f"Sweeps look like alpha=0,1,2, not {text!r}.")
        axes.append([(name.replace("-", "_"), _value(each)) for each in values.split(",")])
    return [dict(each) for each in itertools.product(*axes)]


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
            unfinished = folder / "unfinished" / file.stem
            write_json(file, _measured(fit, data, device, unfinished))
            shutil.rmtree(unfinished, ignore_errors=True)
        yield json.loads(file.read_text())


def metrics(measured: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over seeds by the names of ``results.json``, and standard deviations under ``<name>/std``.

    Names carry the model where two models share an attack.
    """
    together: dict[str, list[float]] = {}
    several = len({each["attack"] for each in measured}) < len({each["fit"]["model"] for each in measured})
    for each in measured:
        fit, attack = each["fit"], each["attack"]
        own = f";model={fit['model']}" if several else ""
        prompted = f";template={fit['template']}" if fit["template"] is not None else ""
        key = own + "".join(f";{name}={value}" for name, value in _keys(fit))
        for test in fit["tests"]:
            for what in _MEASURES:
                for defense, numbers, swept in (
                    ("none", each["before"], own + prompted),
                    (fit["defense"], each["after"], key),
                ):
                    name = f"{prefix(test, attack, defense)}/{what}{swept}"
                    together.setdefault(name, []).append(numbers[test][what])
    found = {name: mean(values) for name, values in together.items()}
    return found | {f"{name}/std": stdev(values) for name, values in together.items() if len(values) > 1}


def rows(measured: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Lines of a table: before and after, means over seeds and standard deviations."""
    together: dict[str, list[dict[str, Any]]] = {}
    for each in measured:
        parts = [each["fit"]["model"], each["fit"]["defense"], *(f"{key} {value}" for key, value in _keys(each["fit"]))]
        together.setdefault(", ".join(parts), []).append(each)
    lines = [("", "undefended  ->  defended, mean ± standard deviation over seeds")]
    for what, fits in together.items():
        for test in fits[0]["fit"]["tests"]:
            shown = [
                f"{name} {_spread(fits, 'before', test, key)}  ->  {_spread(fits, 'after', test, key)}"
                for key, name in zip(_MEASURES, ("ASR", "clean accuracy", "poisoned accuracy"), strict=True)
            ]
            lines.append((f"{what}: {test} ({len(fits)} seeds)", "; ".join(shown)))
        cost = f"{fits[0]['pictures']} pictures, {fits[0]['parameters']:,} parameters"
        lines.append(("  tuned", f"{cost}, {mean(each['seconds'] for each in fits):.0f} s"))
    return lines


def _keys(fit: dict[str, Any]) -> list[tuple[str, Any]]:
    """What tells a fit from another one of the same model and defense, the seed apart."""
    further = {"tuned_on": fit["tuned_on"], "template": fit["template"], "without_target": fit["without_target"]}
    plain = {"tuned_on": fit["tests"][0], "template": None, "without_target": False}
    return [*sorted(fit["settings"].items()), *((key, value) for key, value in further.items() if value != plain[key])]


def _spread(fits: Sequence[dict[str, Any]], side: str, test: str, what: str) -> str:
    values = [each[side][test][what] for each in fits]
    return f"{mean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(set(values)) > 1 else "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


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
        found[name] = {key: rate.value for key, rate in zip(_MEASURES, rates, strict=True)}
    return found


def _measured(fit: Fit, data: str | None, device: str, unfinished: Path) -> dict[str, Any]:
    subject = _subject(fit.model, data, fit.images, device)
    model, trigger, target = subject.model, subject.trigger, subject.target
    if trigger is None or target is None:
        raise SettingError(f"{fit.model} carries no attack on its card.")
    if fingerprint(model) != fit.tower:
        raise DataError(f"{fit.model} is another model by now.")
    defense = fit.made(unfinished)
    before = _undefended(fit.model, fit.tests, fit.template, data, fit.images, device)
    train = _training(fit.tuned_on, model.visual.image_size, 0, defense.shots, fit.template)

    def tune() -> None:
        if isinstance(defense, RVPT):
            defense.fit(model, train, without=(target,) if fit.without_target else ())
        else:
            defense.fit(model, train)

    seconds = timed(defense, tune)
    after = _numbers(defense, subject, fit.tests, fit.template, fit.images)
    return {
        "fit": asdict(fit),
        "attack": trigger.name,
        "target": target,
        "before": before,
        "after": after,
        "seconds": seconds,
        "parameters": defense.parameters,
        "pictures": len(defense.chosen_),
        "history": getattr(defense, "history_", [])[-1:],
    }
