"""Figures of scores: histograms of suspicion, ROC curves, similarity to prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from ..errors import DataError
from .look import COLORS, MUTED, PERCENT, layout, literal, screens, set_height

_FILLS = ("rgba(0,114,178,0.18)", "rgba(213,94,0,0.18)", "rgba(0,158,115,0.18)")


def detection(scores: Mapping[str, Float[np.ndarray, " image"]], title: str) -> go.Figure:
    """Histograms of the suspicion score of several groups of images, each as shares of its own group.

    Args:
        scores: by group, e.g. all clean images, clean images of the target class, triggered images.

    Raises:
        DataError: a group is empty or holds a score that is not finite.
    """
    groups = {name: _finite(name, values, 1) for name, values in scores.items()}
    edges = _edges(groups.values(), bins=40)
    figure = go.Figure()
    for place, (name, values) in enumerate(groups.items()):
        label = literal(f"{name} ({len(values)} images)")
        figure.add_trace(_histogram(values, edges, label, place))
    figure.update_xaxes(title_text="suspicion score (higher is more suspicious)")
    figure.update_yaxes(title_text="images of the group (%)", ticksuffix=" %", rangemode="tozero")
    return layout(figure, title, plot=260, below=95, phone_below=125)


def roc(
    curves: Mapping[str, tuple[Float[np.ndarray, " point"], Float[np.ndarray, " point"], float]], title: str
) -> go.Figure:
    """ROC curves, with the AUROC of each in the legend and chance as a dotted line.

    Args:
        curves: by name: false positive rates, true positive rates (in 0..1) and the AUROC.
    """
    figure = go.Figure()
    dashes = (None, "dash", "dashdot", "longdash")
    for place, (name, (false, true, auroc)) in enumerate(curves.items()):
        figure.add_trace(
            go.Scatter(
                x=100 * np.asarray(false),
                y=100 * np.asarray(true),
                mode="lines",
                name=literal(f"{name} (AUROC {auroc:.3f})"),
                line={"color": COLORS[place % len(COLORS)], "dash": dashes[place % len(dashes)], "width": 2},
                hovertemplate="%{y:.1f} % found at %{x:.1f} % false alarms<extra></extra>",
                cliponaxis=False,
            )
        )
    dotted = {"color": MUTED, "dash": "dot", "width": 1}
    figure.add_trace(go.Scatter(x=[0, 100], y=[0, 100], mode="lines", name="chance", line=dotted, hoverinfo="skip"))
    figure.update_xaxes(title_text="clean images flagged (%)", **PERCENT)
    figure.update_yaxes(title_text="triggered images flagged (%)", **PERCENT)
    return layout(
        figure, title, plot=340, below=80 + 20 * len(curves) // 3, phone_below=80 + 20 * (len(curves) + 1), right=26
    )


def similarity(similarities: Mapping[str, Float[np.ndarray, "image head"]], layer: int, title: str) -> go.Figure:
    """How similar the heads of one layer are to their prototypes, a small histogram a head.

    Three columns of panels on a desk, two on a phone; all share their axes.

    Args:
        similarities: by group of images (clean, triggered): similarity of each head's contribution to its prototype.

    Raises:
        DataError: a group is empty, holds values that are not finite, or has other heads than the first.
    """
    groups = {name: _finite(name, values, 2) for name, values in similarities.items()}
    counts = {values.shape[1] for values in groups.values()}
    if len(counts) != 1:
        raise DataError(f"Groups of images to compare must have the same heads, not {sorted(counts)} of them.")
    n_heads = counts.pop()
    edges = _edges(groups.values(), bins=30)
    figure = go.Figure()
    top = 0.0
    for head in range(n_heads):
        axes = _axes(head)
        for place, (name, values) in enumerate(groups.items()):
            trace = _histogram(values[:, head], edges, literal(name), place)
            trace.update(xaxis=axes[0], yaxis=axes[1], legendgroup=str(place), showlegend=head == 0)
            top = max(top, trace.y.max())
            figure.add_trace(trace)
        figure.add_annotation(
            text=f"L{layer}H{head}", xref=f"{axes[0]} domain", yref=f"{axes[1]} domain", x=0, y=1, font={"size": 13},
            xanchor="left", yanchor="bottom", showarrow=False,
        )  # fmt: skip
    _label_grid(figure)
    columns = min(3, n_heads), min(2, n_heads)
    wide, narrow = (_grid(n_heads, each) for each in columns)
    for key, value in wide.items():
        axis, setting = key.split(".")
        figure.update_layout({axis: {setting: value}})
    figure.update_xaxes(range=[edges[0], edges[-1]], nticks=4)
    figure.update_yaxes(range=[0, 1.05 * top], ticksuffix=" %", nticks=4)
    layout(figure, title, plot=_grid_height(n_heads, columns[0]), below=84)
    figure.update_layout(margin={"l": 74, "b": 84})
    desk = figure.layout.height
    set_height(figure, desk, desk + _grid_height(n_heads, columns[1]) - _grid_height(n_heads, columns[0]))
    screens(figure, wide, narrow)
    return figure


_PANEL, _PANEL_GAP = 105, 48


def _axes(panel: int) -> tuple[str, str]:
    number = "" if panel == 0 else str(panel + 1)
    return f"x{number}", f"y{number}"


def _grid_height(panels: int, columns: int) -> int:
    rows = -(-panels // columns)
    return rows * _PANEL + (rows - 1) * _PANEL_GAP


def _grid(panels: int, columns: int) -> dict[str, object]:
    """Where panels lie, row by row, and which of them carry tick labels: those at the left and at the bottom."""
    height, gap = _grid_height(panels, columns), 0.05
    width = (1 - gap * (columns - 1)) / columns
    found: dict[str, object] = {}
    for panel in range(panels):
        row, column = divmod(panel, columns)
        x, y = (name.replace(axis, f"{axis}axis") for name, axis in zip(_axes(panel), "xy", strict=True))
        left, bottom = column * (width + gap), 1 - (row * (_PANEL + _PANEL_GAP) + _PANEL) / height
        found[f"{x}.domain"] = [left, min(left + width, 1)]
        found[f"{y}.domain"] = [max(bottom, 0), min(bottom + _PANEL / height, 1)]
        found[f"{x}.showticklabels"] = panel + columns >= panels
        found[f"{y}.showticklabels"] = column == 0
        found[f"{x}.anchor"], found[f"{y}.anchor"] = _axes(panel)[1], _axes(panel)[0]
    return found


def _label_grid(figure: go.Figure) -> None:
    shared = {"xref": "paper", "yref": "paper", "showarrow": False, "font": {"size": 13}}
    figure.add_annotation(text="similarity to the prototype", x=0.5, y=0, yshift=-42, **shared)
    figure.add_annotation(text="images (%)", x=0, y=0.5, xshift=-60, xanchor="center", textangle=-90, **shared)


def _finite(name: str, values: Sequence, axes: int) -> np.ndarray:
    found = np.asarray(values).astype(float)
    if found.ndim != axes or found.size == 0:
        raise DataError(f"{name}: {axes}-dimensional values are needed, not shape {list(found.shape)}.")
    if not np.isfinite(found).all():
        raise DataError(f"{name}: {int((~np.isfinite(found)).sum())} values are not finite; leave these images out.")
    return found


def _edges(groups, bins: int) -> Float[np.ndarray, " edge"]:
    groups = list(groups)
    if not groups:
        raise DataError("There is no group of images to draw.")
    return np.histogram_bin_edges(np.concatenate([values.ravel() for values in groups]), bins=bins)


def _histogram(values: Float[np.ndarray, " image"], edges: np.ndarray, name: str, place: int) -> go.Scatter:
    """Shares per bin as a filled step line; the last point closes the last bin."""
    shares = 100 * np.histogram(values, edges)[0] / len(values)
    return go.Scatter(
        x=edges,
        y=np.append(shares, shares[-1]),
        name=name,
        mode="lines",
        line={"shape": "hv", "width": 2, "color": COLORS[place % len(COLORS)]},
        fill="tozeroy",
        fillcolor=_FILLS[place % len(_FILLS)],
        hovertemplate="from %{x:.3f}: %{y:.1f} %<extra>%{fullData.name}</extra>",
    )
