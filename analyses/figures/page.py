"""One page and one list of findings from the folders of all figures that are there.

A figure that was drawn once and can no longer be drawn, as its attack no longer takes or its model is gone, keeps its
folder and is not shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from clip_decomp.report import Section, write_report
from clip_decomp.results import write_json

from .items import Item, Verdict
from .runs import Run, facts, markdown, section_of, settings_of


def findings(items: Sequence[Item], out: Path) -> list[tuple[Item, Verdict]]:
    """What was decided in the folders of some items, of those that are there."""
    found = ((item, settings_of(out / item.name)) for item in items)
    return [(item, Verdict(**each)) for item, settings in found if settings for each in settings["verdicts"]]


def _left_out(runs: Sequence[Run], out: Path) -> dict[str, dict[str, str]]:
    """What this call and those before it left out of each item, kept in ``left-out.json``."""
    file = out / "left-out.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known |= {run.item.name: run.left_out for run in runs}
    write_json(file, known)
    return known


def write(items: Sequence[Item], runs: Sequence[Run], out: Path) -> Path:
    """``report.html`` and ``findings.md`` of all figures that are there; returns the page."""
    left = _left_out(runs, out)
    there = [
        item for item in items if settings_of(out / item.name) is not None and "all" not in left.get(item.name, {})
    ]
    decided = findings(there, out)
    rows = [
        {
            "of": item.source,
            "claim": verdict.claim,
            "appears": "yes" if verdict.appears else "no",
            "evidence": verdict.evidence,
            "rule": verdict.rule,
        }
        for item, verdict in decided
    ]
    table = pd.DataFrame(rows, columns=["of", "claim", "appears", "evidence", "rule"])
    (out / "findings.md").write_text(markdown(table))
    appear = sum(verdict.appears for _, verdict in decided)
    lead = f"{len(there)} figures and tables; {appear} of {len(decided)} claims appear at this scale."
    titles = {item.name: item.title for item in items}
    missing = [f"{titles[name]}: {attack}, {why}." for name in titles for attack, why in left.get(name, {}).items()]
    few, told = table[["claim", "appears", "of"]], "Decided by rules; rules and numbers stand with each figure."
    sections = [Section("Findings", told, tables=[("Claims.", few)])]
    sections += [section_of(item, out / item.name) for item in there]
    if missing:
        sections.append(Section("Left out", "\n\n".join(missing)))
    latest = json.loads((out / there[-1].name / "results.json").read_text()) if there else None
    kept = {key: value for key, value in facts(latest).items() if key not in ("Attacks", "Time")} if latest else {}
    return write_report(out / "report.html", "Figures and tables", lead, sections, kept)
