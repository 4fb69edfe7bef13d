"""Resistivity of features to perturbations, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..errors import DataError, SettingError
from .look import COLORS, layout, literal, ticks

if TYPE_CHECKING:
    from ..methods.resistivity import Resistivity

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down")
_PANELS = ("Class token; on its own at the right: the representation", "Average of the patches")


def resistivity_curves(results: Mapping[str, Resistivity], title: str) -> go.Figure:
    """Perturbation resistivity by layer: the class token (solid) above, the averaged patches (dashed) below.

    Bands are one standard deviation over pictures to either side. ``emb.`` is what enters block 0, ``repr.`` the final
    representation. Both panels have one scale. Hover text gives the numbers.

    Args:
        results: by the name of the line: a perturbation, a model.

    Raises:
        SettingError: no results.
        DataError: a cosine is not finite.
    """
    if not results:
        raise SettingError("There is no perturbation resistivity to draw.")
    panel, gap = 215, 92
    height = 2 * panel + gap
    figure = make_subplots(rows=2, vertical_spacing=gap / height, subplot_titles=_PANELS)
    end = max(max(result.layers) for result in results.values()) + 1.5
    lowest = 1.0
    for place, (name, result) in enumerate(results.items()):
        _check_finite(name, result)
        layers = np.array(result.layers)
        order = np.argsort(layers)
        columns = (result.class_token, result.class_token_std), (result.patches, result.patches_std)
        for row, column in enumerate(columns, start=1):
            mean, std = (np.array(values)[order] for values in column)
            lowest = min(lowest, (mean - std).min())
            for trace in _band_and_line(layers[order], mean, std, literal(name), place, dashed=row == 2):
                figure.add_trace(trace, row=row, col=1)
        lowest = min(lowest, result.representation - result.representation_std)
        figure.add_trace(_point(end, result, literal(name), place), row=1, col=1)
    _label_layers(figure, sorted({layer for result in results.values() for layer in result.layers}), end)
    figure.update_yaxes(title_text="cosine (mean, band 1 std)", range=_range(lowest), nticks=6)
    figure.update_annotations(x=0, xanchor="left", yshift=3, font={"size": 13})
    lines = -(-len(results) // 2)
    layout(figure, title, plot=height, below=80 + 20 * -(-len(results) // 4), phone_below=80 + 20 * lines)
    return figure


def resistivity_panels(results: Mapping[str, Mapping[str, Resistivity]], title: str, heights: int = 150) -> go.Figure:
    """Class tokens' perturbation resistivity by layer: a panel for each perturbation, a line for each model.

    Bands are one standard deviation over pictures to either side, ``repr.`` is the final representation. Every panel
    has a scale of its own. Hover text gives the numbers.

    Args:
        results: by the perturbation's name, then by the model's.
        heights: of a panel, in pixels.

    Raises:
        SettingError: no results, or models that are not the same in all panels.
        DataError: a cosine is not finite.
    """
    models = [list(each) for each in results.values()]
    if not models or not models[0] or any(each != models[0] for each in models):
        raise SettingError("Panels of perturbation resistivity need results, of the same models under all of them.")
    gap, count = 62, len(results)
    height = count * heights + (count - 1) * gap
    figure = make_subplots(
        rows=count,
        vertical_spacing=gap / height if count > 1 else 0,
        subplot_titles=[literal(name) for name in results],
    )
    end = max(max(each.layers) for panel in results.values() for each in panel.values()) + 1.5
    for row, panel in enumerate(results.values(), start=1):
        lowest, layers = 1.0, sorted({layer for each in panel.values() for layer in each.layers})
        for place, (name, result) in enumerate(panel.items()):
            _check_finite(name, result)
            order = np.argsort(result.layers)
            columns = (result.layers, result.class_token, result.class_token_std)
            drawn, mean, std = (np.array(values)[order] for values in columns)
            lowest = min(lowest, (mean - std).min(), result.representation - result.representation_std)
            for trace in _band_and_line(drawn, mean, std, literal(name), place, dashed=False):
                trace.showlegend = trace.showlegend is not False and row == 1
                figure.add_trace(trace, row=row, col=1)
            figure.add_trace(_point(end, result, literal(name), place), row=row, col=1)
        start = {-1: "emb."} if layers[0] == -1 else {}
        settings = ticks(layers, start | {end: "repr."})
        figure.update_xaxes(range=[layers[0] - 0.3, end + 0.4], **settings, row=row, col=1)
        figure.update_yaxes(range=_range(lowest), nticks=5, row=row, col=1)
    figure.update_xaxes(title_text="layer (index)", row=count, col=1)
    figure.update_yaxes(title_text="cosine (band 1 std)", row=(count + 1) // 2, col=1)
    figure.update_annotations(x=0, xanchor="left", yshift=3, font={"size": 13})
    lines = 20 * -(-len(models[0]) // 2)
    return layout(figure, title, plot=height, below=80 + lines // 2, phone_below=80 + lines)


def _range(lowest: float) -> list[float]:
    """Of an axis of cosines whose smallest is ``lowest``."""
    low = max(-1.0, lowest - 0.06 * (1 - lowest)) if lowest < 1 else 0.9
    return [low, 1 + 0.04 * (1 - low)]


def _check_finite(name: str, result: Resistivity) -> None:
    values = (*result.class_token, *result.class_token_std, *result.patches, *result.patches_std, result.representation)
    if not np.isfinite(values).all():
        raise DataError(f"{name}: not every cosine is finite; measure it again with finite features.")


def _band_and_line(
    layers: np.ndarray, mean: np.ndarray, std: np.ndarray, name: str, place: int, dashed: bool
) -> tuple[go.Scatter, go.Scatter]:
    color = COLORS[place % len(COLORS)]
    upper, lower = np.minimum(mean + std, 1), np.maximum(mean - std, -1)
    band = go.Scatter(
        x=np.concatenate([layers, layers[::-1]]),
        y=np.concatenate([upper, lower[::-1]]),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=f"rgba({int(color[1:3], 16)},{int(color[3:5], 16)},{int(color[5:], 16)},0.13)",
        legendgroup=str(place),
        showlegend=False,
        hoverinfo="skip",
    )
    line = go.Scatter(
        x=layers,
        y=mean,
        customdata=std,
        mode="lines+markers",
        name=name,
        line={"color": color, "width": 2, "dash": "dash" if dashed else None},
        marker={"symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 7},
        legendgroup=str(place),
        showlegend=not dashed,
        hovertemplate="layer %{x}: %{y:.4f} (std %{customdata:.4f})<extra>%{fullData.name}</extra>",
        cliponaxis=False,
    )
    return band, line


def _point(x: float, result: Resistivity, name: str, place: int) -> go.Scatter:
    color = COLORS[place % len(COLORS)]
    return go.Scatter(
        x=[x],
        y=[result.representation],
        customdata=[result.representation_std],
        error_y={
            "array": [min(result.representation_std, 1 - result.representation)],
            "arrayminus": [result.representation_std],
            "color": color,
            "thickness": 1.2,
            "width": 3,
        },
        mode="markers",
        name=name,
        marker={"color": color, "symbol": _SYMBOLS[place % len(_SYMBOLS)], "size": 8},
        legendgroup=str(place),
        showlegend=False,
        hovertemplate="representation: %{y:.4f} (std %{customdata:.4f})<extra>%{fullData.name}</extra>",
        cliponaxis=False,
    )


def _label_layers(figure: go.Figure, layers: Sequence[int], end: float) -> None:
    start = {-1: "emb."} if layers[0] == -1 else {}
    for row, names in enumerate((start | {end: "repr."}, start), start=1):
        settings = ticks(layers, names)
        figure.update_xaxes(title_text="layer (index)", range=[layers[0] - 0.3, end + 0.4], **settings, row=row, col=1)
