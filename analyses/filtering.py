"""Filtering and repair at inference, on several models: every detector and every repair on the same pictures.

For each model the detectors' AUROC, against all clean pictures and against those of the target class, and the attack's
success, clean and poisoned accuracy under each repair and each mode of a guard. Decomp-Rep is measured for several
thresholds epsilon (figure 6 of He et al. 2025), named by the share of clean heads that each selects.

Every measurement is kept in a file of its own as soon as it is made: an interrupted run goes on where it stopped, and
one with more models takes over what one with fewer measured.

Limits: fits use at most ``calibration`` held-out pictures. The rivals' own calibrations, which set cutoffs and do not
enter an AUROC, are shortened. Seconds are those of one process on this machine, whatever else it does; a decomposition
that repairs share counts in the seconds per image of each, and in the whole time of the first alone.

Example:
    >>> [each.name for each in measurements() if each.name.startswith("decomp-det")]
    ['decomp-det;score=count', 'decomp-det;score=distance;parts=heads', 'decomp-det;score=distance;parts=mlps',
     'decomp-det;score=distance;parts=both']
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from clip_decomp.cli.run import Clock, Subject, open_subject
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import SettingError, nearest
from clip_decomp.evaluation import ASR_GATE, Classifier, Encoder, PromptedClassifier, evaluate
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.results import prefix, versions, write_json
from defenses import STRIP, BackdoorIDS, DecompDet, DecompRep, DecompRepTotal, Guard, ScaleUp, TeCo
from defenses.commands.detect import Timed
from defenses.detection import Detector, detect
from defenses.guard import Mode

from .recalling import Recalling

log = logging.getLogger(__name__)

#: Shares of clean heads that the thresholds of the sweep select.
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
_RIVALS = ("strip", "scale-up", "teco", "backdoor-ids")
#: Clean pictures that set a rival's cutoff, which an AUROC does not need.
_CUTOFF = 20


@dataclass(frozen=True)
class Work:
    """What a measurement works on.

    Attributes:
        clean: held-out pictures to fit to.
        recalling: the subject's model for repairs of direct effects, which share their decompositions.
    """

    subject: Subject
    clean: ImageSet
    seed: int
    recalling: Recalling


@dataclass(frozen=True)
class Measurement:
    """One thing that is measured.

    Attributes:
        name: the defense, and ``;key=value`` for what tells it from others of its kind.
        measure: gives its numbers by measure.
    """

    name: str
    measure: Callable[[Work], dict[str, float]]


@dataclass(frozen=True)
class Setting:
    """What the numbers of a model depend on."""

    model: str
    tower: str
    data: str | None
    images: int | None
    calibration: int
    seed: int

    def file(self, name: str) -> str:
        """What a measurement's numbers are kept in: another name for every other setting."""
        digest = hashlib.sha256(json.dumps([asdict(self), name], sort_keys=True).encode()).hexdigest()
        return f"{Path(self.model).name}-{name.replace(';', '-').replace('=', '-')}-{digest[:12]}.json"


def measurements(without: Sequence[str] = ()) -> list[Measurement]:
    """All of them, in order, but for those of defenses that are left out.

    Raises:
        SettingError: there is no such defense.
    """
    every = [Measurement("none", _undefended), *_detectors(), *_repairs()]
    known = kinds()
    for name in without:
        if name not in known:
            raise SettingError(f"There is no {name!r} to leave out; did you mean one of {nearest(name, known)}?")
    return [each for each in every if each.name.split(";")[0] not in without]


def kinds() -> list[str]:
    """Kinds of defenses, any of which can be left out."""
    return list(dict.fromkeys(each.name.split(";")[0] for each in (*_detectors(), *_repairs())))


def _detectors() -> list[Measurement]:
    count = Measurement("decomp-det;score=count", lambda work: _detected(DecompDet().fit(*_fit(work)), work))
    found = [count]
    for parts in ("heads", "mlps", "both"):
        found.append(
            Measurement(
                f"decomp-det;score=distance;parts={parts}",
                lambda work, parts=parts: _detected(DecompDet("distance", parts=parts).fit(*_fit(work)), work),
            )
        )
    rivals = {
        "strip": lambda seed: STRIP(calibration=_CUTOFF, seed=seed),
        "scale-up": lambda seed: ScaleUp(seed=seed),  # its calibration is a part of the score
        "teco": lambda seed: TeCo(calibration=_CUTOFF, seed=seed),
        "backdoor-ids": lambda seed: BackdoorIDS(calibration=_CUTOFF, seed=seed),
    }
    for name in _RIVALS:
        make = rivals[name]
        found.append(Measurement(name, lambda work, make=make: _detected(make(work.seed).fit(*_fit(work)), work)))
    return found


def _repairs() -> list[Measurement]:
    heads = "decomp-rep;components=heads;effect=direct"
    found = [
        Measurement(f"{heads};share={share:g}", lambda work, share=share: _by_heads(work, share)) for share in SHARES
    ]
    for components in ("mlps", "auto"):
        found.append(
            Measurement(
                f"decomp-rep;components={components};effect=direct",
                lambda work, components=components: _defended(DecompRep(components).fit(*_sharing(work)), work),
            )
        )
    total = "decomp-rep;components=heads;effect=total"
    found.append(Measurement(total, lambda work: _defended(DecompRepTotal().fit(*_fit(work)), work)))
    modes: tuple[Mode, ...] = ("reject", "repair")
    for mode in modes:
        found.append(Measurement(f"guard;mode={mode}", lambda work, mode=mode: _guarded(work, mode)))
    return found


def run(
    models: Sequence[str],
    data: str | None,
    folder: Path,
    images: int | None = 400,
    calibration: int = 400,
    seed: int = 0,
    device: str = "cpu",
    without: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Measure, or read what was measured before, model by model.

    Of a model whose attack did not take nothing but that is measured.

    Args:
        data: where the models' pictures are, if their cards do not say.
        images: at most this many test pictures, the same for all defenses.
        calibration: at most this many held-out pictures to fit to.

    Raises:
        SettingError: a model carries no attack.
    """
    every = measurements(without)
    for model in models:
        subject = _subject(model, data, images, seed, device)
        if subject.trigger is None:
            raise SettingError(f"{model} carries no attack on its card: there is nothing to filter out.")
        setting = Setting(model, fingerprint(subject.model), data, images, calibration, seed)
        work = Work(subject, subject.data.held_out.first(calibration), seed, Recalling(subject.model))
        for each in every:
            file = folder / "parts" / setting.file(each.name)
            if not file.exists():
                log.info("%s: %s", model, each.name)
                write_json(file, _measured(each, work, setting))
            found = json.loads(file.read_text())
            yield found
            if each.name == "none" and found["numbers"]["asr"] < ASR_GATE:
                log.warning("%s: the attack did not take (ASR %.1f %%).", model, 100 * found["numbers"]["asr"])
                break


def metrics(parts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Numbers by the names of ``results.json``; names carry the model where two models share an attack."""
    pairs = {(each["attack"], each["model"]) for each in parts}
    shared = len(pairs) > len({attack for attack, _ in pairs})
    found = {}
    for each in parts:
        own = [f"model={each['model']}"] if shared else []
        found |= named(each["data"], each["attack"], each["name"], each["numbers"], own)
    return found


def named(data: str, attack: str, name: str, numbers: Mapping[str, float], own: Sequence[str] = ()) -> dict[str, float]:
    """A measurement's numbers by the names of ``results.json``.

    Args:
        own: ``key=value`` before those of the measurement's name.
    """
    defense, *keys = name.split(";")
    start, key = prefix(data, attack, defense), "".join(f";{key}" for key in [*own, *keys])
    return {f"{start}/{measure}{key}": value for measure, value in numbers.items()}


def _measured(each: Measurement, work: Work, setting: Setting) -> dict[str, Any]:
    clock, subject = Clock(), work.subject
    numbers = each.measure(work)
    known = {"attack": subject.attack, "target": subject.target, "data": subject.data.test.name}
    counts = {"images": len(subject.data.test), "clean": len(work.clean)}
    found = {"name": each.name, **asdict(setting), **known, "counts": counts, "numbers": numbers}
    return {**found, "seconds": clock(), "versions": versions()}


def _fit(work: Work) -> tuple[Any, ImageSet]:
    return work.subject.model, work.clean


def _sharing(work: Work) -> tuple[Recalling, ImageSet]:
    return work.recalling, work.clean


def _undefended(work: Work) -> dict[str, float]:
    return _defended(work.subject.model, work)


def _by_heads(work: Work, share: float) -> dict[str, float]:
    fixed = DecompRep(share=share).fit(*_sharing(work))
    return {"epsilon": fixed.selector_.epsilon, **_defended(fixed, work)}


def _defended(encoder: Encoder, work: Work) -> dict[str, float]:
    clock, saved = Clock(), work.recalling.saved
    found = defended(encoder, work.subject)
    seconds = clock() + work.recalling.saved - saved
    return found | {"seconds-per-image": seconds / (2 * len(work.subject.data.test))}


def defended(encoder: Encoder | Classifier | PromptedClassifier, subject: Subject) -> dict[str, float]:
    """ASR, clean and poisoned accuracy of a subject under a defense."""
    found = evaluate(encoder, subject.data.test, subject.trigger, subject.target)
    assert found.attack_success_rate is not None
    assert found.poisoned_accuracy is not None
    rates = {"asr": found.attack_success_rate, "ca": found.clean_accuracy, "pa": found.poisoned_accuracy}
    return {name: rate.value for name, rate in rates.items()}


def _detected(detector: Detector, work: Work) -> dict[str, float]:
    subject, timed = work.subject, Timed(detector)
    found = detect(timed, subject.model, subject.data.test, subject.trigger, subject.target, work.seed)
    numbers = {}
    for name, rate in found.areas.items():
        numbers |= {name: rate.value, f"{name}/low": rate.low, f"{name}/high": rate.high}
    return numbers | {"seconds-per-image": timed.seconds / timed.images}


def _guarded(work: Work, mode: Mode) -> dict[str, float]:
    subject = work.subject
    guard = Guard.calibrate(subject.model, work.clean, mode=mode, seed=work.seed)
    found = detect(guard, subject.model, subject.data.test, subject.trigger, subject.target, work.seed)
    flagged = {"flagged-clean": found.clean, "flagged-triggered": found.triggered}
    shares = {name: guard.flags(scores).float().mean().item() for name, scores in flagged.items()}
    return {**shares, **_defended(guard, work)}


@lru_cache(maxsize=1)
def _subject(model: str, data: str | None, images: int | None, seed: int, device: str) -> Subject:
    return open_subject(model, data, None, None, images, seed, device)
