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
from .rvpt import cleanclip, rvpt
from .trainings import Training

_ONE = ("badnet",)
_CASES = {"CleanCLIP": cleanclip, "RVPT": rvpt}
_METRICS = {
    "time (s)": "time-s",
    "memory (MB)": "memory-mb",
    "tunable parameters (M)": "tunable-parameters-m",
    "training samples (K)": "training-samples-k",
}
#: Pictures that go through the paper's fits: 16 of 1,000 classes 50 times, and 250,000 pairs ten times.
_SEEN = {"RVPT": 16_000 * 50, "CleanCLIP": 250_000 * 10}
#: Pictures under adversarial noise, which takes ten passes forward and back each.
_NOISY = 128
#: Accuracy that tells nothing.
_TOO_STRONG = 0.01


def costs(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 7: time, memory, tuned parameters and samples."""
    drawn, rows = Drawn("One run each."), []
    devices: set[str] = set()
    for attack in attacks:
        taken: dict[str, float] = {}
        for name, make in _CASES.items():
            found = bench.known(make(attack))
            if found is None:
                continue
            taken[name] = found["seconds"] * _SEEN[name] / (found["pictures"] * _epochs(found["fit"]))
            device = found.get("device", "cpu")  # fits kept before it was noted were a CPU's
            devices.add(device)
            row = {"time (s)": found["seconds"], "memory (MB)": found["memory"] / 1e6}
            row |= {
                "tunable parameters (M)": found["parameters"] / 1e6,
                "training samples (K)": found["pictures"] / 1e3,
            }
            rows.append({"attack": called(attack), "defense": name, **row, "device": device})
            start = prefix(bench.setting.sets["ImageNet"], attack, found["fit"]["defense"])
            end = f";device={device.lower().replace(' ', '-')}"
            drawn.metrics |= {f"{start}/{_METRICS[key]}{end}": value for key, value in row.items()}
            data = "ImageNet" if name == "RVPT" else ""
            drawn.measured += (
                [Measured("", name, data, key, value) for key, value in row.items()] if attack == "badnet" else []
            )
        if len(taken) == len(_CASES) and len(devices) == 1:
            evidence = ", ".join(f"{name} {seconds / 3600:.2f} h" for name, seconds in taken.items())
            claim = f"{called(attack)}: RVPT is the cheaper defense"
            rule = (
                "at the rates measured here RVPT takes less time for the paper's 16,000 pictures, 50 times, than "
                "CleanCLIP for its 250,000 pairs, ten times"
            )
            drawn.verdicts.append(Verdict(claim, rule, taken["RVPT"] < taken["CleanCLIP"], evidence))
    apart = " Tuned on two kinds of device: times are not compared." if len(devices) > 1 else ""
    drawn.tables.append((f"Wall time and memory of the fits.{apart}", pd.DataFrame(rows)))
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
            start = prefix(test.name, "clean", {"undefended": "none", "RVPT": "rvpt"}.get(name, "advpt"))
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
    drawn.tables.append((f"{_NOISY} test pictures at most.", pd.DataFrame(rows)))
    return drawn


def _advpt(attack: str) -> Training:
    return replace(rvpt(attack), defense="advpt", tests=("ImageNet",))


def _trainings(attack: str) -> tuple[Training, ...]:
    return (rvpt(attack), cleanclip(attack))


ITEMS = (
    Item("rvpt-t7", "What defenses cost", "Zhang et al. 2025, table 7", _ONE, costs, _trainings(*_ONE)),
    Item("rvpt-t10", "Adversarial noise", "Zhang et al. 2025, table 10", _ONE, noise, (rvpt(*_ONE),), (_advpt(*_ONE),)),
)
