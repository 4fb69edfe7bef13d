"""Numbers that the papers print, and ours beside them.

``papers/*.csv`` hold every number of the papers' tables, and those that their texts state of figures, as printed: item,
attack, case (a defense, a detector, a setting), data, measure, value. The labels of two rows of CBPT's table 2 are
lost; its text (24.17 points below the first on BadCLIP) tells that they come in the text's order, random and nearest.
README.md of the papers tells where a paper disagrees with itself.

Example:
    >>> printed("closer-look-t2")["BadNet", "STRIP", "ImageNet", "AUROC"]
    0.772
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from .tuned import UNDEFENDED, ranked

_FOLDER = Path(__file__).parent / "papers"
#: Tables that have undefended rows.
_MAIN = ("closer-look-t1", "closer-look-t4", "rvpt-t1", "rvpt-t2", "cbpt-t1")
#: Points by which a share moves before it is said to move.
_MOVES = 2.0

#: Attack, case, data and measure.
Key = tuple[str, str, str, str]
#: Numbers of one item by their key, and then by where they are from: ``paper``, or a scale.
Beside = dict[Key, dict[str, float]]


def read(file: Path) -> dict[Key, float]:
    """Numbers of a file whose columns are called as a key's parts and ``value``; none if there is no file."""
    return {_key(row): float(row["value"]) for row in _lines(file)} if file.exists() else {}


@cache
def _all() -> dict[str, dict[Key, float]]:
    found: dict[str, dict[Key, float]] = {}
    for file in sorted(_FOLDER.glob("*.csv")):
        for row in _lines(file):
            found.setdefault(row["item"], {})[_key(row)] = float(row["value"])
    return found


def _lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _key(row: Mapping[str, str]) -> Key:
    return row["attack"], row["case"], row["data"], row["measure"]


def printed(item: str) -> dict[Key, float]:
    """What a paper prints of an item, nothing if it prints no numbers."""
    return _all().get(item, {})


def beside(item: str, folders: Mapping[str, Path]) -> Beside:
    """Numbers of an item: those printed, and ours of every scale.

    Where a table has no undefended row, the paper's main one has it.

    Args:
        folders: of the item's figure, by scale.
    """
    found: Beside = {key: {"paper": value} for key, value in printed(item).items()}
    for scale, folder in folders.items():
        for key, value in read(folder / "measured.csv").items():
            found.setdefault(key, {})[scale] = value
    tables = [table for table in _MAIN if table.rpartition("-")[0] == item.rpartition("-")[0]]
    for (attack, case, data, measure), numbers in found.items():
        if case == UNDEFENDED and "paper" not in numbers:
            known = (printed(table).get((attack, case, data, measure)) for table in tables)
            value = next((each for each in known if each is not None), None)
            numbers |= {} if value is None else {"paper": value}
    return found


def rows(found: Beside, scales: Sequence[str]) -> list[dict[str, str]]:
    """A row a data set, attack and case: for every measure the paper's number and ours, and how the ASR moves."""
    measures = list(dict.fromkeys(measure for *_, measure in found))
    places = list(dict.fromkeys((data, attack, case) for attack, case, data, _ in found))
    table = []
    for data, attack, case in sorted(places, key=lambda place: (place[0] != "ImageNet", place[0])):
        row = {"data": data, "attack": attack, "case": case}
        for measure in measures:
            numbers = found.get((attack, case, data, measure), {})
            row |= {f"{measure}, {source}": _shown(numbers, source, measure) for source in ("paper", *scales)}
        row |= {f"ASR moves, {scale}": moved(found, (attack, case, data), scale) for scale in scales}
        table.append(row)
    empty = {name for name in table[0] if all(not row[name] for row in table)}
    return [{name: value for name, value in row.items() if name not in empty} for row in table]


def _shown(numbers: Mapping[str, float], source: str, measure: str) -> str:
    """The paper's as printed, ours rounded; measures with a unit to three digits."""
    if source not in numbers:
        return ""
    value = numbers[source]
    if source == "paper":
        return f"{value:g}"
    return f"{value:.3g}" if "(" in measure else f"{value:.3f}" if measure == "AUROC" else f"{value:.1f}"


def moved(found: Beside, place: tuple[str, str, str], scale: str) -> str:
    """Whether a case takes the ASR where the paper's does, and how far; nothing where one of four numbers is missing.

    Example:
        >>> numbers = {"undefended": {"paper": 90, "world": 80}, "x": {"paper": 10, "world": 60}}
        >>> moved({("a", case, "d", "ASR"): each for case, each in numbers.items()}, ("a", "x", "d"), "world")
        'same direction: -80 and -20 points'
    """
    attack, case, data = place
    base = f"{case.partition('; ')[0]}; {UNDEFENDED}" if "; " in case else UNDEFENDED
    after, before = (found.get((attack, each, data, "ASR"), {}) for each in (case, base))
    if case == base or any(source not in each for each in (after, before) for source in ("paper", scale)):
        return ""
    changes = [after[source] - before[source] for source in ("paper", scale)]
    signs = [0 if abs(each) < _MOVES else (1 if each > 0 else -1) for each in changes]
    word = "same direction" if signs[0] == signs[1] else "not so"
    return f"{word}: {changes[0]:+.0f} and {changes[1]:+.0f} points"


def agreement(found: Beside, scale: str) -> str:
    """One line on a whole table: do its numbers rank alike, and how far are they apart?"""
    said = []
    for measure in dict.fromkeys(measure for *_, measure in found):
        both = [
            (each["paper"], each[scale])
            for key, each in found.items()
            if key[3] == measure and len(each.keys() & {"paper", scale}) == 2
        ]
        if len(both) < 3 or any(len(set(side)) < 2 for side in zip(*both, strict=True)):
            continue
        rank = ranked(*zip(*both, strict=True))
        apart = sorted(abs(paper - own) for paper, own in both)[len(both) // 2]
        unit = "" if measure == "AUROC" else " points"
        said.append(
            f"{measure} of {len(both)} cells: rank correlation {rank:.2f}, {apart:.3g}{unit} apart in the median"
        )
    return "; ".join(said)
