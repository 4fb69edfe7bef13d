"""A defense under other settings: attack success and clean accuracy against a setting's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import SettingError
from .look import COLORS, layout, literal

#: Colors as in bars of the same rates.
_LINES = {"asr": ("attack success", COLORS[0]), "ca": ("clean accuracy", COLORS[1])}


def setting_panels(
    panels: Mapping[str, Sequence[tuple[float | str, Mapping[str, float]]]],
    undefended: Mapping[str, float],
    title: str,
) -> go.Figure:
    """A panel a setting, its values evenly spaced; dotted lines are the undefended model.

    Args:
        panels: by the setting's name, its values in order, each with the shares ``asr`` and ``ca``.
        undefended: the same two shares, drawn where they are given.

    Raises:
        SettingError: no panels, or one without values.
    """
    if not panels or not all(panels.values()):
        raise SettingError("Panels of settings need one value or more each.")
    height, gap, count = 150, 78, len(panels)
    whole = count * height + (count - 1) * gap
    spacing = gap / whole if count > 1 else 0
    figure = make_subplots(rows=count, vertical_spacing=spacing, subplot_titles=[literal(name) for name in panels])
    for row, points in enumerate(panels.values(), 1):
        for key, (name, color) in _LINES.items():
            line = go.Scatter(
                x=[literal(value if isinstance(value, str) else f"{value:g}") for value, _ in points],
                y=[100 * numbers[key] for _, numbers in points],
                name=name,
                mode="lines+markers",
                line={"color": color},
                legendgroup=key,
                showlegend=row == 1,
                hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
                cliponaxis=False,
            )
            figure.add_trace(line, row=row, col=1)
            if key in undefended:
                style = {"line_dash": "dot", "line_color": color, "line_width": 1}
                figure.add_hline(y=100 * undefended[key], row=row, col=1, **style)
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 103], dtick=25, ticksuffix=" %")
    figure.update_annotations(x=0, xanchor="left", yshift=3, font={"size": 13})
    return layout(figure, title, plot=whole, below=70)
