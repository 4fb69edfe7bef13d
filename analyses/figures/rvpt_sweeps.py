"""Figure 3 of RVPT (Zhang et al. 2025): its settings, one at a time.

Limits: the paper's pictures say which values it tried and its text does not, so these are ours. To be affordable the
fits below the imagenet scale see a fifth of the paper's epochs, the default among them, so they compare with each other
and not with table 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from clip_decomp import plots

from .bench import Bench
from .items import Drawn, Item, Verdict, called
from .rvpt import rvpt
from .trainings import Training
from .tuned import CLEAR, LITTLE, UNDEFENDED, Compared, compared, ranked

_EPOCHS = 10
_ATTACKS = ("badnet", "badclip")
#: Shots that bring the ASR below 5 % in the paper, where one does not.
_ENOUGH = {"badclip": 8}


@dataclass(frozen=True)
class _Sweep:
    """One panel.

    Attributes:
        letter: of the paper's panel.
        setting: of :class:`defenses.RVPT`; ``values`` of it, the default's among them.
        further: settings that go with all values but the default.
    """

    letter: str
    name: str
    setting: str
    values: tuple[float, ...]
    default: float
    further: tuple[tuple[str, Any], ...] = ()

    def case(self, value: float) -> str:
        """A value's name; depths from the input are other cases than those from the output."""
        return "".join((self.setting, *(f" from {place}" for _, place in self.further), f"={value:g}"))

    def training(self, attack: str, value: float) -> Training:
        """The training of a value; that of the default is the same in all sweeps."""
        changed = () if value == self.default else ((self.setting, value), *self.further)
        return replace(rvpt(attack), small=(("epochs", _EPOCHS),), settings=changed, tests=("ImageNet",))


_SWEEPS = (
    _Sweep("a", "shots", "shots", (1, 2, 4, 8, 16, 32), 16),
    _Sweep("b", "alpha", "alpha", (0.0, 0.5, 1.0, 2.0, 4.0), 2.0),
    _Sweep("c", "prompts a block", "length", (5, 10, 25, 50), 50),
    _Sweep("d", "prompted blocks, from the output", "depth", (2, 4, 6, 8), 6),
    _Sweep("e", "prompted blocks, from the input", "depth", (2, 4, 6), -1, (("count_from", "input"),)),
    _Sweep("f", "margin", "margin", (-1.0, -0.5, 0.0, 0.5, 1.0), -1.0),
)


def sweeps(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 3: ASR and clean accuracy under other settings."""
    drawn, rows = Drawn("RVPT with other settings, one at a time; dotted lines are the undefended model."), []
    for attack in attacks:
        panels: dict[str, list[tuple[float, dict[str, float]]]] = {}
        undefended: dict[str, float] = {}
        depths: list[dict[float, float]] = []
        for sweep in _SWEEPS:
            cases = {sweep.case(value): [sweep.training(attack, value)] for value in sweep.values}
            found = compared(bench, [attack], {name: lambda _, own=own: own for name, own in cases.items()})
            undefended = found.numbers.get((attack, "ImageNet", UNDEFENDED), undefended)
            points = _points(found, attack, sweep)
            drawn.metrics |= {f"{key};panel={sweep.letter}": value for key, value in found.metrics.items()}
            for value, numbers in points:
                drawn.put(attack, sweep.case(value), "ImageNet", asr=numbers["asr"], ca=numbers["ca"])
                shown = {"ASR": numbers["asr"], "clean accuracy": numbers["ca"]}
                rows.append({"attack": called(attack), "setting": sweep.name, "value": f"{value:g}", **shown})
            if len(points) > 1:
                panels[sweep.name] = points
            drawn.verdicts += _verdicts(attack, sweep, points)
            depths += [{value: each["asr"] for value, each in points}] if sweep.setting == "depth" else []
        drawn.verdicts += _later(attack, *depths)
        if panels:
            caption = f"{called(attack)}, at most {bench.setting.images} test pictures, one seed."
            drawn.figures.append(
                (caption, plots.setting_panels(panels, undefended, f"{called(attack)}: settings of RVPT"))
            )
    drawn.tables.append((f"Shares of at most {bench.setting.images} test pictures.", pd.DataFrame(rows)))
    return drawn


def _points(found: Compared, attack: str, sweep: _Sweep) -> list[tuple[float, dict[str, float]]]:
    keys = ((value, (attack, "ImageNet", sweep.case(value))) for value in sweep.values)
    return [(value, found.numbers[key]) for value, key in keys if key in found.numbers]


def _verdicts(attack: str, sweep: _Sweep, points: Sequence[tuple[float, dict[str, float]]]) -> list[Verdict]:
    """What the paper says of a panel, where three values or more are there."""
    if len(points) < 3:
        return []
    values, success, accuracy = zip(*((value, each["asr"], each["ca"]) for value, each in points), strict=True)
    told = ", ".join(f"{value:g}: {asr:.1%}" for value, asr in zip(values, success, strict=True))
    if sweep.letter == "a":
        few = _ENOUGH.get(attack, 1)
        word = "one shot is" if few == 1 else f"{few} shots are"
        left = [asr for value, asr in zip(values, success, strict=True) if value == few]
        rule = f"{few} shot{'s' * (few > 1)} leave{'s' * (few == 1)} an ASR of at most {LITTLE:.0%}"
        claim = f"{called(attack)}: {word} enough"
        return [Verdict(claim, rule, left[0] <= LITTLE, f"ASR {told}")] if left else []
    if sweep.letter == "c":
        rule = f"five prompts a block leave an ASR of at most {LITTLE:.0%}"
        return [Verdict(f"{called(attack)}: few prompts are enough", rule, success[0] <= LITTLE, f"ASR {told}")]
    if sweep.letter in "bf":
        sign = -1 if sweep.letter == "b" else 1
        both = [ranked(values, each) for each in (success, accuracy)]
        word = "fall" if sign < 0 else "rise"
        rule = f"the rank correlations of {sweep.name} with ASR and with clean accuracy are beyond {CLEAR * sign:g}"
        evidence = f"ASR {both[0]:.2f}, clean accuracy {both[1]:.2f}"
        claim = f"{called(attack)}: ASR and clean accuracy {word} with {sweep.name}"
        return [Verdict(claim, rule, all(sign * each >= CLEAR for each in both), evidence)]
    if sweep.letter == "d":
        rank = ranked(values, success)
        rule = f"the rank correlation of ASR with the number of prompted last blocks is beyond {-CLEAR:g}"
        claim = f"{called(attack)}: more prompted blocks leave less of the ASR"
        return [Verdict(claim, rule, rank <= -CLEAR, f"{rank:.2f}; ASR {told}")]
    return []


def _later(attack: str, output: Mapping[float, float], input_: Mapping[float, float]) -> list[Verdict]:
    """Whether prompts in late blocks do more than as many in early ones, by the ASR of every depth."""
    both = sorted(output.keys() & input_.keys())
    if not both:
        return []
    evidence = "; ".join(f"{depth:g} blocks: {output[depth]:.1%} and {input_[depth]:.1%}" for depth in both)
    rule = "at every depth, prompts in the last blocks leave less of the ASR than as many in the first ones"
    claim = f"{called(attack)}: late blocks matter more than early ones"
    return [Verdict(claim, rule, all(output[depth] < input_[depth] for depth in both), f"ASR of {evidence}")]


def _trainings() -> tuple[Training, ...]:
    return tuple(sweep.training(attack, value) for attack in _ATTACKS for sweep in _SWEEPS for value in sweep.values)


_NOTE = (
    f"Below the imagenet scale all see {_EPOCHS} epochs instead of the paper's 50, the default settings, too: they "
    "compare with each other, not with table 1."
)
ITEMS = (
    Item("rvpt-f3", "Settings of RVPT", "Zhang et al. 2025, figure 3", _ATTACKS, sweeps, _trainings(), note=_NOTE),
)
