"""Trainings that figures share: which there are, which are missing, what they cost, and running them.

A training is a defense tuned on an attacked model (:class:`Training`), kept by :mod:`analyses.fits`, or the model
itself, of the zoo. Figures only ever read finished ones.

Example:
    >>> Training("resnet/badnet", "cbpt").label
    'cbpt of resnet/badnet'
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from clip_decomp.cli.bench.timing import device_name
from clip_decomp.errors import ClipDecompError
from clip_decomp.zoo import shelf
from clip_decomp.zoo.building import build
from clip_decomp.zoo.recipes import RECIPES

from .. import fits

if TYPE_CHECKING:
    from .bench import Bench
    from .items import Item
    from .setting import Setting

log = logging.getLogger(__name__)

#: The scale whose trainings are as long as the papers'.
IMAGENET = "imagenet"
#: The paper's sets of shifted pictures, beside ImageNet itself.
SHIFTS = ("ImageNet-V2", "ImageNet-Sketch", "ImageNet-R", "ImageNet-A")
#: Seconds of one core for an epoch of one picture of every class, or of one pair, measured in the world on a machine
#: that knows AVX2 only.
_UNIT = {"rvpt": 0.53, "vpt": 0.53, "cbpt": 7.4, "linear-probe": 0.01, "advpt": 0.5}
_UNIT |= {"finetune": 0.03, "cleanclip": 0.08}
#: Minutes of one such core for an attack that sees so many pairs.
_BUILD, _BATCH, _PAIRS = 14.0, 96, 250 * 96
#: Pictures of a class where all are taken.
_SHOTS = 100


@dataclass(frozen=True)
class Training:
    """A defense to be tuned on an attacked model.

    Attributes:
        attack: the model, with its family if it is not the main one: ``badnet``, ``resnet/badnet``.
        settings: of the defense, where they differ from its defaults.
        small, large: further ones, of scales below ``imagenet`` and of that scale.
        tuned_on, tests: data by the papers' names, ``ImageNet`` being the scale's main set; tests that a scale
            lacks are left out.
        template: of all prompts; the data's own if None.
        without_target: leave the target class out of tuning.
        seed: on top of the run's.
    """

    attack: str
    defense: str
    settings: tuple[tuple[str, Any], ...] = ()
    small: tuple[tuple[str, Any], ...] = ()
    large: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    tuned_on: str = "ImageNet"
    tests: tuple[str, ...] = ("ImageNet",)
    template: str | None = None
    without_target: bool = False

    @property
    def label(self) -> str:
        """For plans."""
        words = [f"{self.defense} of {self.attack}", *(f"{key} {value}" for key, value in self.settings)]
        words += [f"prompt {self.template!r}"] if self.template is not None else []
        words += [f"tuned on {self.tuned_on}"] if self.tuned_on != self.tests[0] else []
        words += ["without the target"] if self.without_target else []
        return ", ".join(words + ([f"seed {self.seed}"] if self.seed else []))

    def at(self, scale: str) -> Training:
        """With all settings that it has at a scale.

        Example:
            >>> Training("badnet", "rvpt", small=(("epochs", 10),)).at("world").settings
            (('epochs', 10),)
        """
        further = self.large if scale == IMAGENET else self.small
        return replace(self, settings=(*further, *self.settings), small=(), large=())

    def fit(self, setting: Setting, tower: str) -> fits.Fit | None:
        """As it is kept on disk; None where the scale has no such data."""
        sets = setting.sets
        if self.tuned_on not in sets or self.tests[0] not in sets:
            return None
        tests = tuple(sets[name] for name in self.tests if name in sets)
        model, settings = setting.model(self.attack), dict(self.at(setting.scale).settings)
        seed = setting.seed + self.seed
        rest = (setting.images, self.template, self.without_target)
        return fits.Fit(model, tower, self.defense, settings, seed, sets[self.tuned_on], tests, *rest)


@dataclass(frozen=True)
class Missing:
    """Something to be trained before a figure can be drawn.

    Attributes:
        minutes: of one core, about.
        items: that wait for it.
        how: to get a model.
    """

    what: str
    minutes: float
    items: tuple[str, ...]
    how: str | None = None


def models_of(item: Item) -> list[str]:
    """Attacked models that an item needs, those of its trainings included."""
    return list(dict.fromkeys([*item.attacks, *item.models, *(each.attack for each in trainings_of(item))]))


def trainings_of(item: Item) -> tuple[Training, ...]:
    """All trainings that an item shows."""
    return (*item.trainings, *item.further)


def _waiting(items: Sequence[Item], scale: str) -> dict[Training, list[str]]:
    """All trainings with their settings at a scale, each once, and the items that show them."""
    found: dict[Training, list[str]] = {}
    for item in items:
        for training in dict.fromkeys(each.at(scale) for each in trainings_of(item)):
            found.setdefault(training, []).append(item.name)
    return found


def missing(items: Sequence[Item], bench: Bench) -> list[Missing]:
    """Models and trainings that are not there yet, each once, in the order in which items need them."""
    setting, found = bench.setting, []
    names = list(dict.fromkeys(model for item in items for model in models_of(item)))
    for model in names:
        how, lacking = setting.missing(model), setting.lacking(model)
        waiting = tuple(item.name for item in items if model in models_of(item))
        if lacking is not None:
            found.append(Missing(f"data of {setting.model(model)}", 0.0, waiting, lacking))
        elif how is not None:
            found.append(Missing(f"model {setting.model(model)}", _build_minutes(setting.model(model)), waiting, how))
    for training, waiting in _waiting(items, setting.scale).items():
        if bench.possible(training) and bench.known(training) is None:
            found.append(Missing(training.label, _minutes(training, bench), tuple(waiting)))
    return found


def train(items: Sequence[Item], bench: Bench, locks: Path) -> Iterator[str]:
    """Make what is missing, item by item as they are given, an item's models first. Tells what was made.

    What another process is making is left to it, and nothing is tried twice.
    """
    locks.mkdir(parents=True, exist_ok=True)
    tried: set[str | Training] = set()
    for item in items:
        models, trainings = models_of(item), _waiting([item], bench.setting.scale)
        for model in (each for each in models if each not in tried):
            name = bench.setting.model(model)
            if bench.setting.missing(model) is not None and name in shelf.buildable():
                tried.add(model)
                yield from _locked(locks, name.replace("/", "-"), name, partial(_built, name, bench.setting.device))
        for training in (each for each in trainings if each not in tried):
            if bench.possible(training) and bench.known(training) is None:
                fit = bench.fit(training)
                assert fit is not None
                tried.add(training)
                yield from _locked(locks, fit.name, training.label, partial(bench.train, training))


def _built(name: str, device: str) -> None:
    if not shelf.available(name):
        build(name, shelf.cache(name), device=device)


def _locked(locks: Path, name: str, label: str, work: Callable[[], object]) -> Iterator[str]:
    try:
        with FileLock(locks / f"training-{name}", timeout=0):
            log.info("training: %s", label)
            work()
            yield f"{label}: trained"
    except Timeout:
        yield f"{label}: another process is at it"
    except ClipDecompError as error:
        yield f"{label}: {error}"


def _build_minutes(name: str) -> float:
    """By the pairs that a recipe's training sees, left-out patches counted as such; in the other scales a guess."""
    if name not in RECIPES:
        return _BUILD
    settings = RECIPES[name].settings
    steps, batch_size = settings.steps or 0, settings.batch_size or _BATCH
    return _BUILD * steps * batch_size * (1 - 0.7 * settings.patch_dropout) / _PAIRS


def _minutes(training: Training, bench: Bench) -> float:
    """From trainings of the same defense that this device finished on models of the same family; else from what was
    measured before.
    """
    fit = bench.fit(training)
    assert fit is not None
    units = [
        found["seconds"] / passes(fits.Fit(**found["fit"]))
        for found in fits.finished(bench.folder)
        if found.get("device", "cpu") == device_name(bench.setting.device)
        and (found["fit"]["defense"], _family(found["fit"]["model"])) == (fit.defense, _family(fit.model))
    ]
    return passes(fit) * (median(units) if units else _UNIT[fit.defense]) / 60


def passes(fit: fits.Fit) -> int:
    """Epochs times pictures of a class, or pairs: what the time of a fit is proportional to.

    Example:
        >>> passes(fits.Fit("world/badnet", "", "rvpt", {"shots": 2, "epochs": 10}, 0, "world", ("world",)))
        20
    """
    made = fit.made()
    return made.epochs * (made.pairs if isinstance(made, fits.FineTune) else made.shots or _SHOTS)


def _family(model: str) -> str:
    return model.rpartition("/")[0]
