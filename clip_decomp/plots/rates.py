"""Figures of rates with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from .look import COLORS, INK, PERCENT, layout, literal

if TYPE_CHECKING:
    from ..evaluation import Rate


def bars(rows: Sequence[tuple[str, Mapping[str, Rate | None]]], title: str) -> go.Figure:
    """Bars of rates with their 95 % intervals, a group a row (a defense, say), a color a measure.

    Args:
        rows: label and rates of each group from the top; a rate that is None or missing leaves its place empty.
    """
    measures = list(dict.fromkeys(measure for _, rates in rows for measure in rates))
    labels = [literal(label, 16) for label, _ in rows]
    figure = go.Figure()
    for place, measure in enumerate(measures):
        found = [(row, rate) for row, (_, rates) in enumerate(rows) if (rate := rates.get(measure)) is not None]
        figure.add_trace(
            go.Bar(
                orientation="h",
                y=[row for row, _ in found],
                x=[100 * rate.value for _, rate in found],
                error_x={
                    "array": [100 * max(rate.high - rate.value, 0) for _, rate in found],
                    "arrayminus": [100 * max(rate.value - rate.low, 0) for _, rate in found],
                    "color": INK,
                    "thickness": 1.2,
                    "width": 3,
                },
                customdata=[(100 * rate.low, 100 * rate.high, rate.count) for _, rate in found],
                hovertemplate="%{x:.1f} % (%{customdata[0]:.1f} to %{customdata[1]:.1f} %) of %{customdata[2]} images"
                "<extra>%{fullData.name}</extra>",
                name=literal(measure),
                marker={"color": COLORS[place % len(COLORS)]},
            )
        )
    figure.update_xaxes(title_text="images (%), with 95 % intervals", **PERCENT)
    figure.update_yaxes(
        tickvals=list(range(len(rows))),
        ticktext=labels,
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
        ticks="",
    )
    figure.update_layout(barmode="group", bargap=0.3, bargroupgap=0.05)
    tallest = max((label.count("<br>") + 1 for label in labels), default=1)
    row = max(18 * len(measures) + 14, 16 * tallest + 12)
    return layout(figure, title, plot=row * len(rows), below=85, phone_below=110, right=26)
