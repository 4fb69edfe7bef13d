"""The page that a command writes beside its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results import Results
from .run import Subject

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_page(
    out: Path | None,
    title: str,
    subject: Subject,
    results: Results,
    figures: list[tuple[str, go.Figure]],
    tables: list[tuple[str, Any]],
) -> None:
    """Write ``report.html`` if a folder was given: captioned figures and tables, and what they are of."""
    if out is None:
        return
    from ..report import Section, write_report

    test = subject.data.test
    facts = {
        "Model": subject.model.name,
        "Pictures": f"{len(test)} test pictures of {test.name}",
        "Attack": subject.attack if subject.target is None else f"{subject.attack}, target {subject.target}",
        "Seed": str(results.seed),
    }
    lead = f"{subject.model.name}, {len(test)} pictures, {results.seconds:.0f} seconds."
    write_report(out / "report.html", title, lead, [Section("Measured", figures=figures, tables=tables)], facts)
