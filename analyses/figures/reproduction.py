"""``docs/reproduction.md``: every claim and table of the papers beside what was measured.

What was measured is kept beside the page, ``docs/reproduction/SCALE/ITEM``, without figures: a run adds its items to
those of other runs and scales, and the page is written anew from all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clip_decomp.results import write_json

from .items import Item, Verdict
from .papers import agreement, beside, printed, rows
from .runs import UNDECIDED, Run, facts, markdown, settings_of

#: The scale that comes first.
_FIRST = "world"
#: Settings that say where something lies on a machine.
_PLACES = ("models", "data", "others")
_HEAD = """# Reproduction

Written by `clip-decomp figures --reproduction docs/reproduction.md` from the results in `docs/reproduction`: not edited
by hand. For every figure and table of the three papers it says whether the paper's claims appear, by rules that are
stated, and puts the paper's numbers (percent, as printed) beside ours. {counts}

The world's stand-ins: main set for ImageNet-1K, `tools` for Caltech-101, `town` for Oxford Pets, `resampled` for
ImageNet-V2, `outlines` for -Sketch, `textures` for -R, `hard` for -A. Towers are small and trained here from scratch:
it is directions and orders that can be compared, not numbers. *ASR moves* puts the change of the ASR against the
undefended model in the paper (of its main table, where a table has no such row) beside ours. What was measured
besides, with other settings and other questions, is in [Measurements](measurements.md).
"""


def publish(items: Sequence[Item], runs: Sequence[Run], scale: str, page: Path) -> None:
    """Keep what a run measured beside a page, and write the page from all that is kept there.

    Args:
        items: all that the page has a section of.
        runs: figures that were asked for; those that were left out are not kept.
        page: a Markdown file; results go to a folder of its name without the ending.
    """
    kept = page.with_suffix("")
    kept.mkdir(exist_ok=True)
    for run in runs:
        if run.state != "left out":
            _keep(run.folder, kept / scale / run.item.name)
    scales = sorted(
        (each for each in kept.iterdir() if each.is_dir()), key=lambda each: (each.name != _FIRST, each.name)
    )
    page.write_text(reproduction(items, {each.name: each for each in scales}))


def _keep(folder: Path, kept: Path) -> None:
    """Results and numbers of a figure, without the places where models and data lay."""
    results = json.loads((folder / "results.json").read_text())
    settings = results["settings"]
    given = {settings.get("models"): "MODELS", settings.get("data"): "DATA"}
    given |= {spec: name for name, spec in settings.get("others", ())}
    places = {place: word for place, word in given.items() if place and Path(place.rpartition("=")[2]).is_absolute()}
    results["settings"] = {key: value for key, value in settings.items() if key not in _PLACES}
    write_json(kept / "results.json", _without(results, places))
    shutil.copyfile(folder / "measured.csv", kept / "measured.csv")


def _without(found: Any, places: Mapping[str, str]) -> Any:
    """The same with words for places, whole ones and the folders of ``NAME=FOLDER``."""
    if isinstance(found, dict):
        return {_without(key, places): _without(value, places) for key, value in found.items()}
    if isinstance(found, list):
        return [_without(each, places) for each in found]
    if isinstance(found, str):
        for place, word in sorted(places.items(), key=lambda each: -len(each[0])):
            found = found.replace(place, word).replace(place.rpartition("=")[2], word)
    return found


def reproduction(items: Sequence[Item], folders: Mapping[str, Path]) -> str:
    """The page as Markdown.

    Args:
        folders: a run's folder by the name of its scale.
    """
    scales = [scale for scale, folder in folders.items() if any(settings_of(folder / item.name) for item in items)]
    parts = [_HEAD.format(counts=_counts(items, folders, scales)), "## Runs\n", _runs(items, folders, scales)]
    parts += ["## Claims\n", markdown(_papers(items, folders, scales)), markdown(_claims(items, folders, scales))]
    for item in items:
        parts.append(_section(item, {scale: folders[scale] / item.name for scale in scales}))
    return "\n".join(parts)


def _settings(folder: Path) -> dict[str, Any]:
    return settings_of(folder) or {}


def _verdicts(folder: Path) -> list[dict[str, Any]]:
    """What a figure decided; nothing where there is none."""
    return _settings(folder).get("verdicts", [])


def _counts(items: Sequence[Item], folders: Mapping[str, Path], scales: Sequence[str]) -> str:
    said = []
    for scale in scales:
        every = [each for item in items for each in _verdicts(folders[scale] / item.name)]
        there = sum(settings_of(folders[scale] / item.name) is not None for item in items)
        appear = sum(each["appears"] for each in every)
        said.append(f"At scale {scale}: {there} of {len(items)} items drawn, {appear} of {len(every)} claims appear.")
    return " ".join(said)


def _runs(items: Sequence[Item], folders: Mapping[str, Path], scales: Sequence[str]) -> str:
    """A row for all items of a scale that were drawn alike."""
    table: dict[tuple[str, ...], dict[str, Any]] = {}
    for scale in scales:
        for file in (folders[scale] / item.name / "results.json" for item in items):
            if file.exists():
                results = json.loads(file.read_text())
                known = facts(results)
                shown = {"scale": scale, "pictures": known["Pictures"], "seed": known["Seed"]}
                row = table.setdefault((*shown.values(), known["Versions"]), {**shown, "items": 0, "seconds": 0.0})
                row |= {"items": row["items"] + 1, "seconds": row["seconds"] + results["seconds"]}
                row["versions"] = known["Versions"]
    shown_rows = [{**row, "seconds": f"{row['seconds']:.0f}"} for row in table.values()]
    return markdown(pd.DataFrame(shown_rows).rename(columns={"seconds": "drawn in (s)"}))


def _papers(items: Sequence[Item], folders: Mapping[str, Path], scales: Sequence[str]) -> pd.DataFrame:
    """How many of a paper's claims appear at each scale."""
    found: dict[str, dict[str, list[bool]]] = {}
    for item in items:
        row = found.setdefault(item.source.partition(",")[0], {scale: [] for scale in scales})
        for scale in scales:
            row[scale] += [each["appears"] for each in _verdicts(folders[scale] / item.name)]
    told = [
        {"paper": paper, **{scale: f"{sum(row[scale])} of {len(row[scale])}" for scale in scales}}
        for paper, row in found.items()
    ]
    return pd.DataFrame(told, columns=["paper", *scales]).rename(columns={"paper": "claims that appear"})


def _claims(items: Sequence[Item], folders: Mapping[str, Path], scales: Sequence[str]) -> pd.DataFrame:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for scale in scales:
        for item in items:
            for each in _verdicts(folders[scale] / item.name):
                key = (item.name, each["claim"])
                row = found.setdefault(key, {"of": item.name, "claim": each["claim"]} | dict.fromkeys(scales, ""))
                row[scale] = "appears" if each["appears"] else "does not appear"
    return pd.DataFrame(list(found.values()), columns=["of", "claim", *scales])


def _section(item: Item, folders: Mapping[str, Path]) -> str:
    lines = [f"\n## {item.name}: {item.title}\n", f"{item.source}. {item.note}".rstrip() + "\n"]
    drawn = {scale: folder for scale, folder in folders.items() if settings_of(folder) is not None}
    if not drawn:
        lines.append(f"Not drawn yet: `clip-decomp figures {item.name} --plan` says what it needs.\n")
    rules = []
    for scale, folder in folders.items() if drawn else ():
        if scale not in drawn:
            lines.append(f"- {scale}: not drawn.")
            continue
        settings = _settings(folder)
        said = [Verdict(**each).sentence for each in settings["verdicts"]] or [UNDECIDED]
        lines += [f"- {scale}: {each}" for each in said]
        lines += [f"- {scale}: left out {attack}, {why}." for attack, why in settings["left_out"].items()]
        rules += [each["rule"] for each in settings["verdicts"]]
    lines += [f"- Rule: {rule}." for rule in dict.fromkeys(rules)]
    frame = beside(item.name, drawn)
    if len(frame):
        lines += [f"- {scale}, the whole table: {said}." for scale in drawn if (said := agreement(frame, scale))]
        lines += ["", markdown(pd.DataFrame(rows(frame, list(drawn))))]
    elif drawn:
        lines.append("\nThe paper prints no numbers of this.\n")
    if len(frame) and not len(printed(item.name)):
        lines.append("The paper prints no numbers of this; those of undefended models are of its main table.\n")
    return "\n".join(lines)
