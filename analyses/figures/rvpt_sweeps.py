"""Figure 3 of RVPT (Zhang et al. 2025): its settings, one at a time.

Limits: the paper's pictures say which values it tried and its text does not, so these are ours; of Blended it speaks in
panel a alone. To be affordable the
fits below the imagenet scale see a fifth of the paper's epochs, the default among them, so they compare with each other
and not with table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import pandas as pd

from clip_decomp import plots

from .bench import Bench
from .items import Drawn, Item, Verdict, called
from .rivals import rvpt
from .trainings import Training
from .tuned import BELOW, CLEAR, COST, LITTLE, UNDEFENDED, Compared, compared, kept, lower, ranked

_EPOCHS = 10
_ATTACKS = ("badnet", "badclip", "blended")
#: Panels of attacks that the paper shows in some alone.
_PANELS = {"blended": "a"}
#: Shots that bring the ASR below 5 % in the paper, where one does not.
_ENOUGH = {"badclip": 8}


#: Values of a setting and what was measured with each.
Points = Sequence[tuple[float, dict[str, float]]]


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
    _Sweep("c", "prompts a block", "length", (5, 10, 25, 50, 100), 50),
    _Sweep("d", "prompted blocks, from the output", "depth", (2, 4, 6, 8), -1),
    _Sweep("e", "prompted blocks, from the input", "depth", (2, 4, 6), -1, (("count_from", "input"),)),
    _Sweep("f", "margin", "margin", (-1.0, -0.5, 0.0, 0.5, 1.0), -1.0),
)


def sweeps(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 3: ASR and clean accuracy under other settings."""
    drawn, rows = Drawn("RVPT with other settings, one at a time; dotted lines are the undefended model."), []
    for attack in attacks:
        panels: dict[str, Points] = {}
        undefended: dict[str, float] = {}
        depths: list[Points] = []
        for sweep in _panels(attack):
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
            depths += [points] if sweep.setting == "depth" else []
        drawn.verdicts += _later(attack, *depths) if depths else []
        if panels:
            caption = f"{called(attack)}, at most {bench.setting.images} test pictures, one seed."
            drawn.figures.append(
                (caption, plots.setting_panels(panels, undefended, f"{called(attack)}: settings of RVPT"))
            )
    drawn.tables.append((f"Shares of at most {bench.setting.images} test pictures.", pd.DataFrame(rows)))
    return drawn


def _panels(attack: str) -> list[_Sweep]:
    return [sweep for sweep in _SWEEPS if sweep.letter in _PANELS.get(attack, sweep.letter)]


def _points(found: Compared, attack: str, sweep: _Sweep) -> Points:
    keys = ((value, (attack, "ImageNet", sweep.case(value))) for value in sweep.values)
    return [(value, found.numbers[key]) for value, key in keys if key in found.numbers]


def _verdicts(attack: str, sweep: _Sweep, points: Points) -> list[Verdict]:
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
        return _lengths(attack, points, f"ASR {told}")
    if sweep.letter in "bf" and max(success) > LITTLE:
        sign = -1 if sweep.letter == "b" else 1
        both = [ranked(values, each) for each in (success, accuracy)]
        word = "fall" if sign < 0 else "rise"
        rule = f"the rank correlations of {sweep.name} with ASR and with clean accuracy are beyond {CLEAR * sign:g}"
        evidence = f"ASR {both[0]:.2f}, clean accuracy {both[1]:.2f}"
        claim = f"{called(attack)}: ASR and clean accuracy {word} with {sweep.name}"
        return [Verdict(claim, rule, all(sign * each >= CLEAR for each in both), evidence)]
    if sweep.letter == "d" and max(success) > LITTLE:
        rank = ranked(values, success)
        rule = (
            f"the rank correlation of ASR with the number of prompted last blocks is beyond {-CLEAR:g}, and clean "
            f"accuracy is at most {COST:.0%} lower with most of them than with fewest"
        )
        claim = f"{called(attack)}: more prompted blocks do better"
        evidence = f"{rank:.2f}; ASR {told}; accuracy {accuracy[0]:.1%} to {accuracy[-1]:.1%}"
        return [Verdict(claim, rule, rank <= -CLEAR and kept(accuracy[0], accuracy[-1]), evidence)]
    return []


def _lengths(attack: str, points: Points, told: str) -> list[Verdict]:
    """Five prompts a block are enough, and more than fifty cost accuracy."""
    at, found = dict(points), []
    if 5 in at:
        rule = f"five prompts a block leave an ASR of at most {LITTLE:.0%}"
        claim = f"{called(attack)}: few prompts are enough"
        found.append(Verdict(claim, rule, at[5]["asr"] <= LITTLE, told))
    usual = [at[length]["ca"] for length in (25, 50) if length in at]
    if usual and 100 in at:
        rule = "clean accuracy with 100 prompts a block is below that with 25 or with 50, whichever is higher"
        evidence = f"{at[100]['ca']:.1%}, {max(usual):.1%}"
        claim = f"{called(attack)}: more than 50 prompts a block cost accuracy"
        found.append(Verdict(claim, rule, at[100]["ca"] < max(usual), evidence))
    return found


def _later(attack: str, output: Points, input_: Points) -> list[Verdict]:
    """Whether prompts in late blocks do more than as many in early ones; nothing where both leave next to nothing."""
    late, early = dict(output), dict(input_)
    both = sorted(late.keys() & early.keys())
    if not both or max(each[depth]["asr"] for each in (late, early) for depth in both) <= LITTLE:
        return []
    means = [{key: mean(each[depth][key] for depth in both) for key in ("asr", "ca")} for each in (late, early)]
    told = "; ".join(f"{depth:g} blocks: {late[depth]['asr']:.1%} and {early[depth]['asr']:.1%}" for depth in both)
    evidence = f"ASR of {told}; accuracy in the mean {means[0]['ca']:.1%} and {means[1]['ca']:.1%}"
    rule = (
        f"over all depths, prompts in the last blocks leave at least {100 * BELOW:.0f} points less of the ASR than in "
        "the first, and no less accuracy"
    )
    claim = f"{called(attack)}: late blocks matter more than early ones"
    appears = lower(means[0]["asr"], means[1]["asr"]) and means[0]["ca"] >= means[1]["ca"]
    return [Verdict(claim, rule, appears, evidence)]


def _trainings() -> tuple[Training, ...]:
    cases = ((attack, sweep) for attack in _ATTACKS for sweep in _panels(attack))
    return tuple(sweep.training(attack, value) for attack, sweep in cases for value in sweep.values)


_NOTE = (
    f"Below the imagenet scale all see {_EPOCHS} epochs instead of the paper's 50, the default settings, too: they "
    "compare with each other, not with table 1."
)
ITEMS = (
    Item("rvpt-f3", "Settings of RVPT", "Zhang et al. 2025, figure 3", _ATTACKS, sweeps, _trainings(), note=_NOTE),
)
