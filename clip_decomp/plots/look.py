"""What all figures share: colors, type sizes, axes, and a layout that fits a phone."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

#: Okabe and Ito's colors, the strongest contrasts first; yellow is left out, being too pale for a line on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
INK, MUTED, GRID = "#222222", "#666666", "#E3E6EA"
#: Fitting titles and names into a phone's width, in characters.
TITLE_WIDTH, NAME_WIDTH = 42, 38
PERCENT: dict[str, Any] = {"range": [0, 100], "dtick": 25, "ticksuffix": " %"}

_AXIS = {
    "automargin": True,
    "fixedrange": True,
    "gridcolor": GRID,
    "linecolor": "#9AA0A6",
    "showline": True,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "#9AA0A6",
    "zeroline": False,
    "title": {"font": {"size": 13}, "standoff": 8},
}
_LOOK = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
        "colorway": list(COLORS),
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"size": 13}},
        "dragmode": False,
        "title": {"font": {"size": 15}, "x": 0, "xref": "container", "pad": {"l": 4}, "yanchor": "top"},
        "legend": {
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "xref": "container",
            "x": 0,
            "font": {"size": 12},
            "itemwidth": 30,
        },
    }
)


def literal(text: str, width: int = NAME_WIDTH) -> str:
    """Text as Plotly should show it: nothing in it is markup or a template, and long text is broken into lines.

    Example:
        >>> literal("<script> & co")
        '&lt;script&gt; &amp; co'
    """
    lines = textwrap.wrap(str(text), width) or [""]
    return "<br>".join(html.escape(line, quote=False).replace("%{", "&#37;{") for line in lines)


def layout(
    figure: go.Figure, title: str, plot: float, below: float, phone_below: float | None = None, right: int = 14
) -> go.Figure:
    """Give a figure the shared look, its title and its height.

    Args:
        plot: height of the plotting area in pixels.
        below: pixels for tick labels, axis title and legend under it; ``phone_below`` on a narrow screen, where the
            legend takes more lines.
        right: pixels at the right, for a tick label that reaches over the end of the axis.
    """
    heading = literal(title, TITLE_WIDTH)
    lines = heading.count("<br>") + 1
    above = 24 * lines + 34
    figure.update_layout(template=_LOOK, title_text=heading, margin={"t": above, "b": 8, "l": 8, "r": right})
    set_height(figure, plot + above + below, plot + above + (phone_below or below))
    return figure


def set_height(figure: go.Figure, wide: float, narrow: float) -> None:
    """Set a figure's height on a wide and on a narrow screen; its title stays near the upper edge."""
    # Plotly raises a title of several lines by half of what it adds to one line.
    top = 10 + 10 * figure.layout.title.text.count("<br>")
    figure.update_layout(height=wide, title_y=1 - top / wide)
    screens(figure, {"height": wide, "title.y": 1 - top / wide}, {"height": narrow, "title.y": 1 - top / narrow})


def screens(figure: go.Figure, wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> None:
    """Add to what a figure's layout is on a wide and on a narrow screen; both set the same keys."""
    known = figure.layout.meta or {"wide": {}, "narrow": {}}
    figure.layout.meta = {"wide": known["wide"] | dict(wide), "narrow": known["narrow"] | dict(narrow)}


def ticks(indices: Sequence[int], names: Mapping[float, str] | None = None, most: int = 12) -> dict[str, Any]:
    """Tick settings for layer or head indices: every place that has a name, and at most ``most`` plain numbers.

    Example:
        >>> ticks([-1, 0, 1, 2], {-1: "emb."})
        {'tickvals': [0, 1, 2, -1], 'ticktext': ['0', '1', '2', 'emb.']}
    """
    names = names or {}
    plain = [index for index in indices if all(abs(index - place) >= 1 for place in names)]
    shown = [*plain[:: -(-len(plain) // most) or 1], *names]
    return {"tickvals": shown, "ticktext": [names.get(place, str(place)) for place in shown]}
