"""Figures of features: their resistivity to perturbations layer by layer, and maps of clean and triggered ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool
from plotly.subplots import make_subplots

from ..errors import DataError, SettingError
from .look import COLORS, INK, layout, literal, ticks

if TYPE_CHECKING:
    from ..methods.embedding import Embedding
    from ..methods.resistivity import Resistivity

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down")
_PANELS = ("Class token; on its own at the right: the representation", "Average of the patches")
#: With more classes than colors, only the target is told apart.
_MOST_CLASSES = len(COLORS)
_SIZES = {False: 6, True: 12}


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
    low = max(-1.0, lowest - 0.06 * (1 - lowest)) if lowest < 1 else 0.9
    figure.update_yaxes(title_text="cosine (mean, band 1 std)", range=[low, 1 + 0.04 * (1 - low)], nticks=6)
    figure.update_annotations(x=0, xanchor="left", yshift=3, font={"size": 13})
    lines = -(-len(results) // 2)
    layout(figure, title, plot=height, below=80 + 20 * -(-len(results) // 4), phone_below=80 + 20 * lines)
    return figure


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


def embedding_map(embedding: Embedding, class_names: Sequence[str], title: str) -> go.Figure:
    """The t-SNE map: clean pictures as dots, triggered ones as stars, with the numbers that go with it underneath.

    With up to seven classes each has its color and the target a dark outline; with more, the target's clean pictures
    and the triggered ones are told apart from the rest by color. Hover text gives the true class.

    Args:
        class_names: by label.

    Raises:
        SettingError: a label without a name.
        DataError: a point is not finite.
    """
    highest = max(int(embedding.labels.max()), -1 if embedding.target is None else embedding.target)
    if highest >= len(class_names) or embedding.labels.min() < 0:
        raise SettingError(f"{len(class_names)} class names do not cover labels 0 to {highest}: give the data's own.")
    if not np.isfinite(embedding.points).all():
        raise DataError("The map has points that are not finite: embed finite features.")
    groups = _by_class if len(np.unique(embedding.labels)) <= _MOST_CLASSES else _by_role
    figure = go.Figure()
    drawn = [group for group in groups(embedding, class_names) if group[1].any()]
    # Clean points are small and drawn last: where a trigger changes nothing, each lies on its star.
    for rank, (name, chosen, color, outlined) in sorted(
        enumerate(drawn), key=lambda each: not _is_star(embedding, each[1][1])
    ):
        trace = _points(embedding, class_names, name, chosen, color, outlined)
        figure.add_trace(trace.update(legendrank=rank + 1))
    lines = _caption(embedding)
    hidden = {"showticklabels": False, "ticks": "", "showgrid": False, "mirror": True}
    figure.update_xaxes(title_text="<br>".join(lines), title_font_size=12, **hidden)
    figure.update_yaxes(scaleanchor="x", **hidden)
    entries = len(figure.data)
    below = 16 * len(lines) + 30
    return layout(
        figure, title, plot=420, below=below + 20 * -(-entries // 3), phone_below=below + 20 * -(-entries // 2) + 10
    )


def _by_class(
    embedding: Embedding, class_names: Sequence[str]
) -> list[tuple[str, Bool[np.ndarray, " point"], str, bool]]:
    """Groups of points: every class in its color, clean and triggered."""
    found = []
    for place, label in enumerate(np.unique(embedding.labels).tolist()):
        for triggered in (False, True):
            chosen = (embedding.labels == label) & (embedding.is_triggered == triggered)
            mark = " (target)" if label == embedding.target else ""
            name = f"{class_names[label]}{mark}, {'triggered' if triggered else 'clean'}"
            found.append((name, chosen, COLORS[place], label == embedding.target))
    return found


def _by_role(
    embedding: Embedding, class_names: Sequence[str]
) -> list[tuple[str, Bool[np.ndarray, " point"], str, bool]]:
    """Groups of points: the target's clean pictures, other clean ones, triggered ones."""
    clean = ~embedding.is_triggered
    if embedding.target is None:
        return [("clean", clean, COLORS[5], False), ("triggered", ~clean, COLORS[1], False)]
    name, own = class_names[embedding.target], embedding.labels == embedding.target
    return [
        ("clean, other classes", clean & ~own, "#9AA0A6", False),
        ("triggered, other classes", ~clean & ~own, COLORS[1], False),
        (f"clean, {name} (target)", clean & own, COLORS[0], True),
        (f"triggered, {name} (target)", ~clean & own, COLORS[4], True),
    ]


def _is_star(embedding: Embedding, chosen: Bool[np.ndarray, " point"]) -> bool:
    return bool(embedding.is_triggered[chosen][0])


def _points(
    embedding: Embedding,
    class_names: Sequence[str],
    name: str,
    chosen: Bool[np.ndarray, " point"],
    color: str,
    outlined: bool,
) -> go.Scatter:
    x, y = embedding.points[chosen].T
    triggered = _is_star(embedding, chosen)
    line = {"color": INK if outlined else "white", "width": 1.2 if outlined else 0.5}
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name=literal(name),
        customdata=[literal(class_names[label]) for label in embedding.labels[chosen].tolist()],
        marker={"symbol": "star" if triggered else "circle", "size": _SIZES[triggered], "color": color, "line": line},
        opacity=0.85,
        hovertemplate=f"%{{customdata}}, {'triggered' if triggered else 'clean'}<extra></extra>",
    )


def _caption(embedding: Embedding) -> list[str]:
    """The numbers, in lines that fit a phone."""
    numbers = embedding.numbers
    one, on_map, apart = (
        _short(value)
        for value in (
            numbers.triggered_silhouette,
            numbers.triggered_silhouette_map,
            numbers.triggered_silhouette_apart,
        )
    )
    clean, triggered = _short(numbers.class_silhouette_clean), _short(numbers.class_silhouette_triggered)
    lines = [
        f"t-SNE, perplexity {embedding.perplexity:g}; the axes have no unit",
        f"triggered as one cluster: silhouette {one} (map {on_map})",
        f"against the nearest clean class: {apart}",
        f"silhouette of classes: {clean} clean, {triggered} triggered",
        f"to the own clean picture: {numbers.partner_mean:.2f} of a random pair",
    ]
    nearest = f"nearest mean of a clean class: own {100 * numbers.nearest_mean_true:.0f} %"
    if numbers.nearest_mean_target is not None:
        nearest += f", target {100 * numbers.nearest_mean_target:.0f} %"
    return [*lines, nearest]


def _short(value: float) -> str:
    """Two decimals, and no minus before a zero.

    Example:
        >>> _short(-0.004), _short(-0.168)
        ('0.00', '-0.17')
    """
    return f"{round(value, 2) + 0.0:.2f}"
