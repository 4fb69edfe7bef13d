"""Tables of tuned defenses: rows of attacks, data sets and defenses, from finished trainings.

Example:
    >>> seeds(Training("badnet", "linear-probe"), 2)[1].seed
    1
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from clip_decomp.evaluation.rates import Rate, rate
from clip_decomp.results import prefix

from ..fits import MEASURES
from .bench import Bench
from .items import Drawn, Verdict, called
from .trainings import Training

UNDEFENDED = "undefended"
#: A defense that works, and costs little, as rules put it.
LITTLE, COST = 0.05, 0.02
#: How far a rate must be below another to be lower, where rules ask for more than an order: less is noise in 400
#: pictures. Rules that the papers' own numbers would fail so ask for the order alone.
BELOW = 0.02
#: Rank correlation from which a share is said to move with a setting.
CLEAR = 0.7
_COLUMNS = {"asr": "ASR", "ca": "clean accuracy", "pa": "poisoned accuracy"}

#: A defense, named as the paper's table does, and its trainings of an attack, one a seed.
Cases = Mapping[str, Callable[[str], Sequence[Training]]]


def seeds(training: Training, count: int = 3) -> tuple[Training, ...]:
    """The same training with several seeds."""
    return tuple(replace(training, seed=seed) for seed in range(count))


def every(cases: Cases, attacks: Sequence[str]) -> tuple[Training, ...]:
    """All trainings of a table, attack by attack."""
    return tuple(each for attack in attacks for case in cases.values() for each in case(attack))


@dataclass
class Compared:
    """Numbers of a table.

    Attributes:
        numbers: means over seeds, by attack, data set and case; ``undefended`` is among the cases.
        rows: of a table.
        metrics: by the names of ``results.json``.
    """

    numbers: dict[tuple[str, str, str], dict[str, float]]
    rows: list[dict[str, Any]]
    metrics: dict[str, float]

    def add(
        self, key: tuple[str, str, str], numbers: Sequence[Mapping[str, float]], place: str, defense: str = "none"
    ) -> None:
        """Take in the numbers of a case, one a seed.

        Args:
            key: attack, data set and case.
            place: the data, as metrics call it.
        """
        attack, data, case = key
        means = {measure: mean(each[measure] for each in numbers) for measure in MEASURES}
        self.numbers[key] = means
        family, _, name = attack.rpartition("/")
        keys = {"family": family, "case": "" if case == UNDEFENDED else case.replace(" ", "-")}
        end = "".join(f";{word}={value}" for word, value in keys.items() if value)
        row: dict[str, Any] = {"attack": called(attack), "data": data, "defense": case}
        for measure, column in _COLUMNS.items():
            metric = f"{prefix(place, name, defense)}/{measure}{end}"
            row[column] = self.metrics[metric] = means[measure]
            if len(numbers) > 1:
                spread = stdev(each[measure] for each in numbers)
                row[f"± {measure.upper()}"] = self.metrics[f"{metric}/std"] = spread
        self.rows.append({**row, "seeds": len(numbers)})

    def pairs(self, case: str) -> list[tuple[str, str, dict[str, float], dict[str, float]]]:
        """Attack, data set, undefended numbers and those of a case, wherever there are both."""
        return [
            (attack, data, self.numbers[attack, data, UNDEFENDED], found)
            for (attack, data, name), found in self.numbers.items()
            if name == case
        ]


def compared(bench: Bench, attacks: Sequence[str], cases: Cases, data: Sequence[str] = ("ImageNet",)) -> Compared:
    """Numbers of finished trainings; cases that have none are left out."""
    found = Compared({}, [], {})
    for attack in attacks:
        results = {
            case: [each for training in make(attack) if (each := bench.known(training))] for case, make in cases.items()
        }
        every = [each for fits in results.values() for each in fits]
        for name in (name for name in data if name in bench.setting.sets):
            spec, place = bench.setting.sets[name], bench.setting.named(name)
            before = next((each["before"][spec] for each in every if spec in each["before"]), None)
            if before is None:
                continue
            found.add((attack, name, UNDEFENDED), [before], place)
            for case, fits in results.items():
                there = [each["after"][spec] for each in fits if spec in each["after"]]
                if there:
                    found.add((attack, name, case), there, place, fits[0]["fit"]["defense"])
    return found


def tabled(
    bench: Bench, text: str, found: Compared, columns: Sequence[str] = ("ASR", "clean accuracy", "poisoned accuracy")
) -> Drawn:
    """A drawn table of numbers, and these beside the paper's; without one where nothing was measured."""
    drawn = Drawn(text, metrics=found.metrics)
    if not found.rows:
        return drawn
    frame, sets = pd.DataFrame(found.rows), {row["data"] for row in found.rows}
    spread = [f"± {key.upper()}" for key, name in _COLUMNS.items() if name in columns]
    kept = ["attack", "data", "defense", *columns, *(each for each in spread if each in frame), "seeds"]
    if len(sets) == 1:
        kept.remove("data")
    if all(row["seeds"] == 1 for row in found.rows):
        kept.remove("seeds")
    drawn.tables.append((counted(bench), frame[kept]))
    for (attack, data, case), numbers in found.numbers.items():
        shown = {key: numbers[key] for key, name in _COLUMNS.items() if name in columns}
        drawn.put(attack, case, data, **shown)
    return drawn


def counted(bench: Bench) -> str:
    """How many pictures numbers are of, for captions."""
    return f"Shares of at most {bench.setting.images} test pictures; ± is a standard deviation over seeds."


def _on(data: str) -> str:
    """The end of a claim about another set than the main one."""
    return "" if data == "ImageNet" else f" on {data}"


def lower(rate: float, other: float) -> bool:
    """Whether a rate is ``BELOW`` or more below another; so much exactly counts, whatever floats make of it."""
    return other - rate >= BELOW - 1e-9


def kept(before: float, after: float) -> bool:
    """Whether a rate falls by ``COST`` at most, exactly so much included."""
    return before - after <= COST + 1e-9


def works(attack: str, data: str, name: str, before: dict[str, float], after: dict[str, float]) -> Verdict:
    """Whether a defense takes a backdoor out without costing accuracy."""
    appears = after["asr"] <= LITTLE and kept(before["ca"], after["ca"])
    changes = (f"{word} {before[key]:.1%} to {after[key]:.1%}" for word, key in (("ASR", "asr"), ("accuracy", "ca")))
    rule = f"an ASR of at most {LITTLE:.0%} is left, and clean accuracy falls by at most {COST:.0%}"
    return Verdict(f"{called(attack)}: {name} takes the backdoor out{_on(data)}", rule, appears, ", ".join(changes))


def halves(attack: str, data: str, name: str, before: dict[str, float], after: dict[str, float]) -> Verdict:
    """Whether a defense still leaves less than half of the attack's success elsewhere than it was tuned."""
    rule = "at most half of the undefended ASR is left"
    evidence = f"ASR {before['asr']:.1%} to {after['asr']:.1%}, accuracy {before['ca']:.1%} to {after['ca']:.1%}"
    claim = f"{called(attack)}: {name} carries over to {data}"
    return Verdict(claim, rule, after["asr"] <= before["asr"] / 2, evidence)


def ranked(values: Sequence[float], shares: Sequence[float]) -> float:
    """Rank correlation; none with shares that are all the same.

    Example:
        >>> round(ranked([1, 2, 4], [0.9, 0.3, 0.1])), ranked([1, 2, 4], [0.0, 0.0, 0.0])
        (-1, 0.0)
    """
    return float(spearmanr(values, shares).statistic) if len(set(shares)) > 1 else 0.0


def leaves_least(
    found: Compared, attack: str, data: str, case: str, cases: Cases, name: str | None = None
) -> list[Verdict]:
    """Whether no other defense leaves less of an attack; nothing where no other was measured.

    Args:
        cases: all defenses of the table.
        name: what the defense is called, if not as the case.
    """
    left = {other: found.numbers.get((attack, data, other), {}).get("asr") for other in cases}
    rivals = {other: asr for other, asr in left.items() if asr is not None and other != case}
    own = left[case]
    if not rivals or own is None:
        return []
    best = min(rivals, key=lambda other: rivals[other])
    rule = "no other defense that was measured leaves less of the ASR"
    claim = f"{called(attack)}: {name or case} leaves the least of the attack{_on(data)}"
    return [Verdict(claim, rule, own <= rivals[best], f"{own:.1%}, {best} {rivals[best]:.1%}")]


def shares(numbers: dict[str, float], count: int) -> dict[str, Rate]:
    """ASR and clean accuracy with intervals, as if all of ``count`` pictures were counted in both."""
    return {
        "attack success": rate(round(numbers["asr"] * count), count),
        "clean accuracy": rate(round(numbers["ca"] * count), count),
    }
