"""Maps of clean and triggered features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool

from ..errors import DataError, SettingError
from .look import COLORS, INK, layout, literal

if TYPE_CHECKING:
    from ..methods.embedding import Embedding

#: With more classes than colors, only the target is told apart.
_MOST_CLASSES = len(COLORS)
_SIZES = {False: 6, True: 12}


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
