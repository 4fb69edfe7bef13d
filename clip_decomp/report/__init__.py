"""The HTML report: one file that works without a network, on a phone as on a desk.

The Plotly script is embedded once (about 4.8 MB), figures as JSON, pictures as data URIs. Whatever text is given is
escaped, in the page by Jinja and in figures by :mod:`clip_decomp.plots`; a content security policy keeps the page from
loading anything, should a figure ask for it.

Example:
    >>> import tempfile
    >>> table = [{"model": "world/badnet", "ASR": 0.97}]
    >>> sections = [Section("Sweeps", "What the attack needs.", tables=[("Rates", table)])]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_report(Path(folder) / "report.html", "Audit", "One page.", sections, {"seed": "0"}).read_text()
    >>> "<h1>Audit</h1>" in page
    True
"""

from __future__ import annotations

import logging
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import plotly.io
import plotly.offline
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..drafts import drafted
from ..errors import SettingError
from ..evaluation import Rate

__all__ = ["Picture", "Section", "cell", "environment", "script_safe", "write_page", "write_report"]

logger = logging.getLogger(__name__)

_MOST_BYTES = 6_000_000

Table = pd.DataFrame | Sequence[Mapping[str, Any]]


class Picture(NamedTuple):
    """A picture with its caption; ``rows`` names the rows of a grid, from the top, beside it."""

    caption: str
    data_uri: str
    rows: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """A section of a report: text, then figures, tables, pictures, then sections inside it.

    Attributes:
        text: plain; a blank line begins a paragraph.
        figures: caption and figure.
        tables: caption and a table; a data frame's own index is shown unless it only counts rows.
        images: caption and data URI (:func:`clip_decomp.plots.pictures`), or a :class:`Picture` with names of its rows.
    """

    title: str
    text: str = ""
    figures: Sequence[tuple[str, go.Figure]] = ()
    tables: Sequence[tuple[str, Table]] = ()
    images: Sequence[tuple[str, str] | Picture] = ()
    subsections: Sequence[Section] = ()


def write_report(
    path: Path, title: str, lead: str, sections: Sequence[Section], facts: Mapping[str, str] | None = None
) -> Path:
    """Write a report as one HTML file, in one step: a reader never finds half of it.

    Args:
        lead: what was found, in a few sentences; a blank line begins a paragraph.
        facts: how it was made (model, data, seed, versions), shown as a list under the lead.

    Returns:
        The path, whose folder is made if it is missing.

    Raises:
        SettingError: a picture that is not a data URI.
    """
    figures: list[str] = []
    page = environment().get_template("report/template.html").render(
        title=title,
        lead=_paragraphs(lead),
        facts=dict(facts or {}),
        sections=[_section(section, str(number), figures) for number, section in enumerate(sections, start=1)],
        figures=figures,
        plotly=plotly.offline.get_plotlyjs() if figures else "",
    )  # fmt: skip
    return write_page(Path(path), page)


def write_page(path: Path, page: str) -> Path:
    """Write a page in one step; its folder is made if it is missing. A large page is named in a warning."""
    content = page.encode()
    if len(content) > _MOST_BYTES:
        logger.warning("%s has %.1f MB: show fewer pictures or figures.", path, len(content) / 1e6)
    with drafted(path) as draft:
        draft.write_bytes(content)
    return path


def environment() -> Environment:
    """The package's templates, by their path in it; whatever they are given is escaped."""
    return Environment(
        loader=PackageLoader("clip_decomp", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _section(section: Section, number: str, figures: list[str]) -> dict[str, Any]:
    """What the template needs of a section; its figures join the page's."""
    drawn = []
    for caption, figure in section.figures:
        figures.append(script_safe(plotly.io.to_json(figure, validate=False)))
        drawn.append({"caption": caption, "number": len(figures), "height": figure.layout.height or 450})
    return {
        "id": f"section-{number}",
        "title": section.title,
        "paragraphs": _paragraphs(section.text),
        "figures": drawn,
        "tables": [_table(caption, table) for caption, table in section.tables],
        "images": [_picture(Picture(*image)) for image in section.images],
        "subsections": [
            _section(inner, f"{number}-{place}", figures) for place, inner in enumerate(section.subsections, start=1)
        ],
    }


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def script_safe(json: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _picture(picture: Picture) -> Picture:
    if not picture.data_uri.startswith("data:image/"):
        raise SettingError(f"Pictures of a report are data URIs, not {picture.data_uri[:60]!r}: embed the file.")
    return picture


def _table(caption: str, table: Table) -> dict[str, Any]:
    if isinstance(table, pd.DataFrame):
        frame = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
        columns, rows = list(frame.columns), [list(row) for row in frame.itertuples(index=False, name=None)]
    else:
        columns = list(dict.fromkeys(key for row in table for key in row))
        rows = [[row.get(column) for column in columns] for row in table]
    return {
        "caption": caption,
        "columns": [str(column) for column in columns],
        "numeric": [all(_is_number(row[place]) for row in rows) for place in range(len(columns))],
        "rows": [[cell(value) for value in row] for row in rows],
    }


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, Rate | numbers.Number)


def cell(value: object) -> str:
    """A value as a reader wants it.

    Example:
        >>> cell(0.12345), cell(7), cell(None), cell(Rate(0.9, 0.6, 0.98, 10))
        ('0.123', '7', '-', '90.0 % (60.0 to 98.0)')
    """
    if isinstance(value, Rate):
        return f"{100 * value.value:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"
    if value is None or (isinstance(value, numbers.Real) and math.isnan(value)):
        return "-"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f"{float(value):.3f}" if 1e-3 <= abs(float(value)) < 1e4 or value == 0 else f"{float(value):.3g}"
    return str(value)
