"""Figures of ablations: sweeps over layers, and maps of every head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from ..errors import DataError, SettingError
from .look import COLORS, INK, MUTED, PERCENT, layout, literal, ticks

if TYPE_CHECKING:
    from ..ablation.result import AblationResult

_SCHEMES = {"forward": "Forward: layers 0 to l", "backward": "Backward: layers l to last", "separate": "Layer l alone"}
_COMPONENTS = {"heads": (COLORS[0], "circle"), "mlps": (COLORS[1], "square"), "layers": (COLORS[2], "diamond")}
_NAMES = {"heads": "heads", "mlps": "MLPs", "layers": "whole layers"}
_STRONGEST = 5


def sweeps(results: Sequence[AblationResult], title: str) -> go.Figure:
    """Attack success (solid) and clean accuracy (dashed) as layers are ablated, one panel a scheme, one above another.

    Dotted lines are the values without ablation; ``emb.`` is the embedding. Hover text gives the numbers.

    Args:
        results: sweeps of one effect over the same images, each component and scheme at most once.

    Raises:
        SettingError: no results, two effects in one figure, or one sweep given twice.
    """
    _check_sweeps(results)
    effect = results[0].effect
    schemes = [scheme for scheme in _SCHEMES if any(result.scheme == scheme for result in results)]
    panel, gap = 190, 92
    height = panel * len(schemes) + gap * (len(schemes) - 1)
    figure = make_subplots(
        rows=len(schemes),
        vertical_spacing=gap / height,
        subplot_titles=[f"{_SCHEMES[scheme]}, {effect} effect" for scheme in schemes],
    )
    shown: set[str] = set()
    for row, scheme in enumerate(schemes, start=1):
        for trace in _sweep_traces([result for result in results if result.scheme == scheme]):
            trace.showlegend = trace.name not in shown
            shown.add(trace.name)
            figure.add_trace(trace, row=row, col=1)
        layers = sorted({layer for result in results if result.scheme == scheme for layer in result.layers})
        names = {-1: "emb."} if -1 in layers else {}
        span = [layers[0] - 0.3, layers[-1] + 0.3]
        figure.update_xaxes(title_text="layer l (index)", range=span, **ticks(layers, names), row=row, col=1)
        figure.update_yaxes(title_text="images (%)", **PERCENT, row=row, col=1)
    figure.update_annotations(x=0, xanchor="left", yshift=3, font={"size": 13})
    return layout(figure, title, plot=height, below=100, phone_below=150)


def _check_sweeps(results: Sequence[AblationResult]) -> None:
    if not results:
        raise SettingError("There is no sweep to draw.")
    effects = sorted({result.effect for result in results})
    if len(effects) > 1:
        raise SettingError(f"One figure shows one effect, not {' and '.join(effects)}: draw one figure for each.")
    kinds = [(result.over, result.scheme) for result in results]
    if len(set(kinds)) < len(kinds):
        raise SettingError("The same component and scheme is given twice: leave one of the two sweeps out.")


def _sweep_traces(results: Sequence[AblationResult]) -> list[go.Scatter]:
    traces = []
    for result in results:
        color, symbol = _COMPONENTS[result.over]
        measures = (("ASR", result.attack_success_rate, None), ("clean accuracy", result.clean_accuracy, "dash"))
        for measure, values, dash in measures:
            name = f"{measure}: {_NAMES[result.over]}"
            line = {"color": color, "dash": dash, "width": 2}
            marker = {"symbol": symbol, "size": 6}
            traces.append(_curve(result.layers, values, name, result.over, line, marker=marker, mode="lines+markers"))
    for baseline in dict.fromkeys(result.baseline for result in results):
        ends = [min(min(result.layers) for result in results), max(max(result.layers) for result in results)]
        for measure, value, color in (("ASR", baseline[1], INK), ("clean accuracy", baseline[0], MUTED)):
            line = {"color": color, "dash": "dot", "width": 1.5 if color == INK else 1}
            traces.append(_curve(ends, [value, value], f"{measure}: nothing ablated", "nothing", line, mode="lines"))
    return traces


def _curve(
    layers: Sequence[int], shares: Sequence[float], name: str, group: str, line: dict, **style: object
) -> go.Scatter:
    return go.Scatter(
        x=list(layers),
        y=100 * np.asarray(shares),
        name=name,
        legendgroup=group,
        line=line,
        hovertemplate="layer %{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
        cliponaxis=False,
        **style,
    )


def head_map(
    values: Float[np.ndarray, "layer head"],
    title: str,
    colorbar_title: str,
    percent: bool = False,
    diverging: bool = False,
    mlp: Float[np.ndarray, " layer"] | None = None,
) -> go.Figure:
    """A heat map of one number per head, with the MLPs' as a column apart if given.

    The five cells largest in absolute value carry their numbers; every cell has hover text such as ``L6H1: 12 %``.

    Args:
        values: not finite where there is nothing to show.
        colorbar_title: what the numbers are, with their unit.
        percent: the numbers are shares in 0..1, drawn in percent.
        diverging: center the colors on zero.

    Raises:
        DataError: the values are not [layer, head], or the MLPs' do not match them.
    """
    heads = np.asarray(values).astype(float) * (100 if percent else 1)
    if heads.ndim != 2 or heads.size == 0:
        raise DataError(f"A head map needs values of [layer, head], not of shape {list(heads.shape)}.")
    n_layers, n_heads = heads.shape
    columns = heads
    if mlp is not None:
        column = np.asarray(mlp).astype(float) * (100 if percent else 1)
        if column.shape != (n_layers,):
            raise DataError(f"{n_layers} layers of heads need {n_layers} MLP values, not {list(column.shape)}.")
        columns = np.hstack([heads, column[:, None]])
    text = _strongest(columns, percent)
    labels = [[f"L{layer}H{head}" for head in range(n_heads)] for layer in range(n_layers)]
    figure = go.Figure(_cells(heads, text[:, :n_heads], labels, list(range(n_heads)), percent))
    names = {}
    if mlp is not None:
        place = n_heads + 0.4
        names = {place: "MLP"}
        labels = [[f"MLP of layer {layer}"] for layer in range(n_layers)]
        figure.add_trace(_cells(columns[:, n_heads:], text[:, n_heads:], labels, [place], percent))
    figure.update_xaxes(title_text="head (index)", showgrid=False, **ticks(range(n_heads), names))
    figure.update_yaxes(title_text="layer (index)", showgrid=False, autorange="reversed", **ticks(range(n_layers)))
    figure.update_layout(coloraxis=_color_axis(columns, colorbar_title, percent, diverging))
    height = n_layers * (26 if n_layers <= 12 else 20)
    figure.update_layout(coloraxis_colorbar_y=-52 / height)
    below = 116 + 17 * literal(colorbar_title).count("<br>")
    layout(figure, title, plot=height, below=below)
    return figure.update_layout(margin_b=below)


def _strongest(values: Float[np.ndarray, "layer column"], percent: bool) -> np.ndarray:
    size = np.where(np.isfinite(values), np.abs(values), 0)
    text = np.full(values.shape, "", dtype=object)
    for place in np.argsort(-size, axis=None, kind="stable")[:_STRONGEST]:
        layer, column = np.unravel_index(place, values.shape)
        if size[layer, column] > 0:
            text[layer, column] = _short(values[layer, column], percent)
    return text


def _short(value: float, percent: bool) -> str:
    """A number that fits a cell on a phone.

    Example:
        >>> _short(99.6, True), _short(-3.42, True), _short(-0.123, False), _short(0.0067, False)
        ('100', '-3.4', '-.12', '.007')
    """
    if abs(value) >= 9.95:
        return f"{value:.0f}"
    number = f"{value:.1f}" if percent else f"{value:.{2 if abs(value) >= 0.1 else 1}g}"
    return number.replace("0.", ".", 1)


def _cells(values: np.ndarray, text: np.ndarray, labels: list[list[str]], x: list[float], percent: bool) -> go.Heatmap:
    number = "%{z:.1f} %" if percent else "%{z:.3g}"
    return go.Heatmap(
        z=values,
        x=x,
        y=list(range(len(values))),
        text=text,
        texttemplate="%{text}",
        textfont={"size": 12},
        customdata=np.array(labels, dtype=object),
        hovertemplate=f"%{{customdata}}: {number}<extra></extra>",
        hoverongaps=False,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
    )


def _color_axis(values: np.ndarray, title: str, percent: bool, diverging: bool) -> dict:
    finite = values[np.isfinite(values)]
    top = max(float(finite.max(initial=0)), 0.0)
    low = min(float(finite.min(initial=0)), 0.0)
    if diverging:
        top = max(top, -low)
        low = -top
    if top == low:
        top = low + (100 if percent else 1)
    return {
        "colorscale": "RdBu" if diverging else "Blues",
        "reversescale": diverging,
        "cmin": low,
        "cmax": top,
        "colorbar": {
            "orientation": "h",
            "yanchor": "top",
            "thickness": 12,
            "len": 1,
            "nticks": 6,
            "ticksuffix": " %" if percent else "",
            "title": {"text": literal(title), "side": "top", "font": {"size": 13}},
        },
    }
