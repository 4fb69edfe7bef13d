"""What RVPT costs (Zhang et al. 2025, table 7), and what it is no defense against (table 10).

Limits: seconds are those of one process on the machine that tuned, whatever else it did, and are compared where one
kind of device tuned both; memory is what a fit took beyond what its process held before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from clip_decomp.evaluation import evaluate, interval_metrics
from clip_decomp.results import prefix
from defenses import RVPT
from defenses.robustness import pgd_accuracy

from ..fits import Fit
from .bench import Bench
from .items import Drawn, Item, Measured, Verdict, called
from .rivals import CLEANCLIP_NOTE, cleanclip, rvpt
from .trainings import Training

_ONE, _PETS = ("badnet",), "Oxford Pets/badnet"
#: What is shown: attack, defense, and the data of the paper's row.
_CASES = {
    "CleanCLIP": (cleanclip(*_ONE), ""),
    "RVPT": (rvpt(*_ONE), "ImageNet"),
    "RVPT on OxfordPets": (rvpt(_PETS), "Oxford Pets"),
}
_METRICS = {
    "time (s)": "time-s",
    "memory (MB)": "memory-mb",
    "tunable parameters (M)": "tunable-parameters-m",
    "training samples (K)": "training-samples-k",
}
#: What does not depend on the device.
_COUNTED = ("tunable parameters (M)", "training samples (K)")
#: Pictures that go through the paper's fits: 16 of 1,000 classes 50 times, and 250,000 pairs ten times.
_SEEN = {"RVPT": 16_000 * 50, "CleanCLIP": 250_000 * 10}
#: Pictures under adversarial noise, which takes ten passes forward and back each.
_NOISY = 128
#: Accuracy that tells nothing.
_TOO_STRONG = 0.01


def costs(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 7: time, memory, tuned parameters and samples."""
    known = {name: (bench.known(training), data) for name, (training, data) in _CASES.items()}
    there = {name: (found, data) for name, (found, data) in known.items() if found is not None}
    devices = {found.get("device", "cpu") for found, _ in there.values()}  # not noted in fits of before: a CPU's
    apart = " Tuned on two kinds of device: times are not compared." if len(devices) > 1 else ""
    drawn, rows, taken = Drawn(f"One run each.{apart}"), [], {}
    for name, (found, data) in there.items():
        row = {
            "time (s)": found["seconds"],
            "memory (MB)": found["memory"] / 1e6,
            "tunable parameters (M)": found["parameters"] / 1e6,
            "training samples (K)": found["pictures"] / 1e3,
        }
        device = found.get("device", "cpu")
        rows.append({"attack": called(_ONE[0]), "defense": name, **row, "device": device})
        start = prefix(bench.setting.named(data or "ImageNet"), _ONE[0], found["fit"]["defense"])
        end = f";device={device.lower().replace(' ', '-')}"
        drawn.metrics |= {f"{start}/{_METRICS[key]}{end}": value for key, value in row.items()}
        alike = row if not apart else {key: row[key] for key in _COUNTED}
        drawn.measured += [Measured("", name.partition(" ")[0], data, key, value) for key, value in alike.items()]
        if name in _SEEN:
            taken[name] = found["seconds"] * _SEEN[name] / (found["pictures"] * _epochs(found["fit"]))
    if len(taken) == len(_SEEN) and not apart:
        evidence = ", ".join(f"{name} {seconds / 3600:.2f} h" for name, seconds in taken.items())
        rule = (
            "at the rates measured here RVPT takes less time for the paper's 16,000 pictures, 50 times, than "
            "CleanCLIP for its 250,000 pairs, ten times"
        )
        claim = f"{called(_ONE[0])}: RVPT is the cheaper defense"
        drawn.verdicts.append(Verdict(claim, rule, taken["RVPT"] < taken["CleanCLIP"], evidence))
        small, large = (there[name][0] for name in ("RVPT", "CleanCLIP"))
        share, memory = small["parameters"] / large["parameters"], (small["memory"], large["memory"])
        rule = "RVPT tunes at most a hundredth of the values that CleanCLIP tunes, and its fit takes less memory"
        evidence = f"{share:.2%} of the values; {memory[0] / 1e6:.0f} and {memory[1] / 1e6:.0f} MB"
        claim = f"{called(_ONE[0])}: RVPT tunes few values in little memory"
        drawn.verdicts.append(Verdict(claim, rule, share <= 0.01 and memory[0] < memory[1], evidence))
    drawn.tables.append(("Wall time and memory of the fits.", pd.DataFrame(rows)))
    return drawn


def _epochs(fit: dict[str, Any]) -> int:
    return Fit(**fit).made().epochs


def noise(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 10: clean pictures under noise made against each model, projected gradient descent of ten steps, 8/255."""
    drawn, rows = Drawn("Noise is made against the model that it is shown to."), []
    for attack in attacks:
        subject, tuned = bench[attack].subject, bench.tuned(rvpt(attack))
        assert isinstance(tuned, RVPT)
        rival = bench.tuned(_advpt(attack))
        models = {"undefended": subject.model, "RVPT": tuned} | ({"Adversarial Prompt Tuning": rival} if rival else {})
        test, scale, left = subject.data.test.first(_NOISY), subject.model.logit_scale.item(), {}
        for name, model in models.items():
            clean = evaluate(model, test).clean_accuracy
            noisy = pgd_accuracy(model, test, scale, seed=bench.setting.seed)
            left[name] = noisy.value
            rows.append(
                {"attack": called(attack), "defense": name, "clean accuracy": clean.value, "under PGD": noisy.value}
            )
            start = prefix(test.name, attack, {"undefended": "none", "RVPT": "rvpt"}.get(name, "advpt"))
            drawn.metrics |= interval_metrics(start, {"ca;attack=pgd": noisy})
            drawn.measured.append(Measured("", name, "ImageNet", "accuracy under PGD", 100 * noisy.value))
        if max(left.values()) <= _TOO_STRONG:
            continue
        rule = (
            "accuracy under the noise is at most five points above the undefended model's; decided where the noise "
            "leaves any model more than one percent"
        )
        evidence = ", ".join(f"{name} {value:.1%}" for name, value in left.items())
        claim = "RVPT is no defense against adversarial noise"
        drawn.verdicts.append(Verdict(claim, rule, left["RVPT"] <= left["undefended"] + 0.05, evidence))
        if rival:
            rule = "its accuracy under the noise is more than five points above RVPT's"
            claim = "adversarial prompt tuning is a defense where RVPT is none"
            appears = left["Adversarial Prompt Tuning"] > left["RVPT"] + 0.05
            drawn.verdicts.append(Verdict(claim, rule, appears, evidence))
    drawn.tables.append((f"{_NOISY} test pictures at most.", pd.DataFrame(rows)))
    return drawn


def _advpt(attack: str) -> Training:
    return replace(rvpt(attack), defense="advpt", tests=("ImageNet",))


ITEMS = (
    Item(
        "rvpt-t7",
        "What defenses cost",
        "Zhang et al. 2025, table 7",
        _ONE,
        costs,
        (rvpt(*_ONE), cleanclip(*_ONE)),
        (rvpt(_PETS),),
        note=CLEANCLIP_NOTE,
    ),
    Item("rvpt-t10", "Adversarial noise", "Zhang et al. 2025, table 10", _ONE, noise, (rvpt(*_ONE),), (_advpt(*_ONE),)),
)
