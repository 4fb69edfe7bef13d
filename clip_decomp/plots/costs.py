"""Figures of costs that are compared with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from .look import COLORS, MUTED, layout, literal


def ranked_costs(
    names: Sequence[str], costs: Sequence[float], boundary: float, most: float, title: str, axis: str
) -> go.Figure:
    """A dot for every class at its cost, the cheapest on top; those below the boundary in another color and shape.

    Args:
        most: cost at which classes were given up, which are drawn hollow.
    """
    order = sorted(range(len(names)), key=lambda each: (costs[each], names[each]))
    groups = {
        ("suspicious", COLORS[1], "diamond"): lambda cost: cost < boundary,
        ("like the others", COLORS[0], "circle"): lambda cost: boundary <= cost < most,
        ("not reached", COLORS[0], "circle-open"): lambda cost: cost >= max(most, boundary),
    }
    figure = go.Figure()
    for (label, color, symbol), belongs in groups.items():
        rows = [row for row, each in enumerate(order) if belongs(costs[each])]
        figure.add_trace(
            go.Scatter(
                x=[costs[order[row]] for row in rows],
                y=rows,
                customdata=[names[order[row]] for row in rows],
                mode="markers",
                marker={"color": color, "size": 10, "symbol": symbol},
                name=label,
                hovertemplate="%{customdata}: %{x:.2f}<extra></extra>",
            )
        )
    figure.add_vline(x=boundary, line={"color": MUTED, "dash": "dot", "width": 1.2})
    figure.update_xaxes(title_text=literal(axis), rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[literal(names[each], 16) for each in order],
        range=[len(names) - 0.5, -0.5],
        ticks="",
    )
    return layout(figure, title, plot=max(200, 19 * len(names)), below=85, phone_below=110)


def group_scores(
    groups: Mapping[str, Sequence[tuple[str, float]]], threshold: float, title: str, axis: str
) -> go.Figure:
    """A dot for every named score, the largest on top, a color and a shape a group, and a line at the threshold."""
    order = sorted(((score, name) for rows in groups.values() for name, score in rows), reverse=True)
    places = {name: row for row, (_, name) in enumerate(order)}
    figure, symbols = go.Figure(), ("diamond", "circle", "circle-open", "square")
    for place, (group, rows) in enumerate(groups.items()):
        figure.add_trace(
            go.Scatter(
                x=[score for _, score in rows],
                y=[places[name] for name, _ in rows],
                customdata=[name for name, _ in rows],
                mode="markers",
                marker={"color": COLORS[(1, 0, 6, 2)[place % 4]], "size": 10, "symbol": symbols[place % 4]},
                name=literal(group),
                hovertemplate="%{customdata}: %{x:.2f}<extra></extra>",
            )
        )
    figure.add_vline(x=threshold, line={"color": MUTED, "dash": "dot", "width": 1.2})
    figure.update_xaxes(title_text=f"{literal(axis)}; dotted: threshold")
    figure.update_yaxes(
        tickvals=list(range(len(order))),
        ticktext=[literal(name, 22) for _, name in order],
        range=[len(order) - 0.5, -0.5],
        ticks="",
    )
    return layout(figure, title, plot=max(200, 19 * len(order)), below=85, phone_below=125)
