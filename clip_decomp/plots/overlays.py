"""Heat maps on pictures: one, or a grid of them under one color scale.

A picture under a heat map is drawn pale and without color, so that every color is a number; the stronger the number,
the less of the picture shines through. Panels that always lie side by side share one pair of axes and one image, which
keeps 144 heads light enough for a phone.

Example:
    >>> import numpy as np
    >>> picture, heads = np.zeros((3, 64, 64), np.uint8), np.random.default_rng(0).normal(size=(12, 8, 8))
    >>> figure = overlay_grid(picture, heads, [f"L7H{head}" for head in range(12)], "Heads", "cosine")
    >>> len(figure.data), len(figure.layout.images)
    (12, 4)
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from PIL import Image

from ..errors import DataError, SettingError
from .look import layout, literal, screens, set_height

_Picture = UInt8[np.ndarray, "3 row column"]
_Heat = Float[np.ndarray, "row column"]

#: Width in pixels that panels are laid out for on a desk and on a phone, and the largest panel.
_WIDE, _NARROW, _LARGEST = 930, 400, 300
_GAP, _LINE, _BELOW = 0.06, 17, 72
#: Characters in a row on the smallest phone, and the pixels of a picture for each pixel of a panel.
_CHARACTERS, _SHARP = 45, 1.5
#: Up to this height pictures are never JPEG, which would wash out a trigger's noise.
_SMALL = 128
_DIVERGING = (
    "rgba(0,68,136,0.9)", "rgba(0,114,178,0.55)", "rgba(255,255,255,0)", "rgba(213,94,0,0.6)", "rgba(140,30,0,0.9)",
)  # fmt: skip
_RISING = ("rgba(255,255,255,0)", "rgba(230,159,0,0.55)", "rgba(213,94,0,0.75)", "rgba(120,20,0,0.9)")


def overlay(
    picture: _Picture, heat: _Heat, title: str, colorbar_title: str, diverging: bool = True, limit: float | None = None
) -> go.Figure:
    """A picture, and beside it the same picture under a heat map.

    Args:
        heat: of any resolution: of patches, or upsampled.
        colorbar_title: what the numbers are, with their unit.
        diverging: center the colors on zero.
        limit: end of the color scale, the largest value by default.

    Raises:
        DataError: no such picture, or a heat map that is not [row, column] or not finite.
        SettingError: the limit is not positive.
    """
    return overlay_grid(picture, [None, heat], ("picture", "heat map"), title, colorbar_title, diverging, limit, 2, 2)


def overlay_grid(
    pictures: _Picture | Sequence[_Picture],
    heats: Sequence[_Heat | None],
    names: Sequence[str],
    title: str,
    colorbar_title: str,
    diverging: bool = True,
    limit: float | None = None,
    columns: int | None = None,
    narrow_columns: int | None = None,
) -> go.Figure:
    """Heat maps on pictures, row by row, under one color scale.

    Args:
        pictures: one for all panels or one a panel, all of one size.
        heats: a panel each, e.g. [panel, row, column]; where it is None the picture is shown as it is.
        names: of the panels, e.g. ``L11H3``.
        colorbar_title: what the numbers are, with their unit.
        diverging: center the colors on zero.
        limit: end of the color scale, the largest value by default; what lies beyond takes the last color.
        columns: panels in a row, by default 12 for many and 6 or fewer for few.
        narrow_columns: the same on a phone, half as many by default. Common divisors of both make light figures.

    Raises:
        DataError: pictures of other sizes or kinds, or heat maps that are not [row, column] or not finite.
        SettingError: names or pictures do not match the heat maps, or columns or limit are not positive.
    """
    panels = _panels(pictures, heats, names)
    columns = min(len(panels), 6 if len(panels) <= 24 else 12) if columns is None else columns
    narrow_columns = -(-columns // 2) if narrow_columns is None else narrow_columns
    if columns < 1 or narrow_columns < 1:
        raise SettingError(f"A grid has one column or more, not {columns} and {narrow_columns}.")
    panels = [panel.shrunk(round(_SHARP * min(_WIDE / columns, _LARGEST))) for panel in panels]
    together = math.gcd(columns, narrow_columns)
    strips = [panels[start : start + together] for start in range(0, len(panels), together)]
    width = max(_CHARACTERS // narrow_columns, 6)
    drawn = [_draw(strip, place, together, width) for place, strip in enumerate(strips)]
    # All at once: adding one by one checks everything before it again.
    figure = go.Figure([trace for each in drawn for trace in each.traces])
    figure.update_layout(annotations=[note for each in drawn for note in each.notes])
    figure.update_layout({name: axis for each in drawn for name, axis in each.axes.items()})
    figure.update_layout(images=[each.image for each in drawn])
    lines = 1 + max(note["text"].count("<br>") for each in drawn for note in each.notes)
    wide, narrow = (
        _Grid(len(strips), together, across // together, screen, panels[0].aspect, lines)
        for across, screen in ((columns, _WIDE), (narrow_columns, _NARROW))
    )
    scale, clipped = _color_axis([panel.heat for panel in panels if panel.heat is not None], diverging, limit)
    label = literal(colorbar_title + (f" (beyond {limit:g}: last color)" if clipped else ""))
    scale["colorbar"]["title"] = {"text": label, "side": "top", "font": {"size": 13}}
    figure.update_layout(coloraxis=scale)
    below = _BELOW + _LINE * label.count("<br>")
    layout(figure, title, plot=wide.height, below=below)
    figure.update_layout(margin_b=below, **{key.replace(".", "_"): value for key, value in wide.settings().items()})
    desk = figure.layout.height
    set_height(figure, desk, desk + narrow.height - wide.height)
    screens(figure, wide.settings(), narrow.settings())
    return figure


@dataclass(frozen=True)
class _Panel:
    picture: np.ndarray
    heat: np.ndarray | None
    name: str

    @property
    def aspect(self) -> float:
        return self.picture.shape[1] / self.picture.shape[2]

    def image(self) -> Image.Image:
        return Image.fromarray(np.ascontiguousarray(self.picture.transpose(1, 2, 0)))

    def shrunk(self, width: int) -> _Panel:
        """With a picture of at most this width."""
        _, rows, columns = self.picture.shape
        if columns <= width:
            return self
        smaller = self.image().resize((width, max(1, round(rows * width / columns))), Image.Resampling.LANCZOS)
        return replace(self, picture=np.asarray(smaller).transpose(2, 0, 1))


@dataclass(frozen=True)
class _Grid:
    """Where strips of panels lie on one screen."""

    strips: int
    together: int
    across: int
    screen: int
    aspect: float
    lines: int

    @property
    def panel(self) -> float:
        """Width of a panel in pixels."""
        columns = self.across * self.together
        return min(self.screen / (columns + _GAP * (columns - 1)), _LARGEST, _LARGEST / self.aspect)

    @property
    def row(self) -> float:
        """Height of a row with its names and the gap under it."""
        return self.panel * self.aspect + _LINE * self.lines + 10

    @property
    def height(self) -> float:
        return self.row * -(-self.strips // self.across)

    def settings(self) -> dict[str, Any]:
        """Where everything lies; the color bar is below the panels, whatever their height."""
        columns = self.across * self.together
        unit = 1 / (columns + _GAP * (columns - 1))
        step, width = unit * self.together * (1 + _GAP), unit * (self.together + _GAP * (self.together - 1))
        found: dict[str, Any] = {"coloraxis.colorbar.y": -12 / self.height}
        for place in range(self.strips):
            row, column = divmod(place, self.across)
            top = 1 - (row * self.row + _LINE * self.lines) / self.height
            x, y = _axes(place)
            found[f"{x}.domain"] = [column * step, min(column * step + width, 1)]
            found[f"{y}.domain"] = [max(top - self.panel * self.aspect / self.height, 0), top]
        return found


def _axes(place: int) -> tuple[str, str]:
    number = "" if place == 0 else str(place + 1)
    return f"xaxis{number}", f"yaxis{number}"


def _panels(pictures, heats, names) -> list[_Panel]:
    single = not isinstance(pictures, list | tuple) and np.ndim(pictures) == 3
    shown = [np.asarray(picture) for picture in ([pictures] * len(heats) if single else pictures)]
    if not len(heats) or len(names) != len(heats) or len(shown) != len(heats):
        raise SettingError(
            f"Every panel needs a heat map, a name and a picture: got {len(heats)} heat maps, {len(names)} names "
            f"and {len(shown)} pictures."
        )
    for picture in shown:
        if picture.dtype != np.uint8 or picture.ndim != 3 or len(picture) != 3 or picture.shape != shown[0].shape:
            raise DataError(
                f"Pictures under heat maps are uint8 of [3, row, column] and one size, not {picture.dtype} of "
                f"{list(picture.shape)}."
            )
    maps = [None if heat is None else np.asarray(heat).astype(np.float32) for heat in heats]
    for name, heat in zip(names, maps, strict=True):
        if heat is None:
            continue
        if heat.ndim != 2 or not heat.size:
            raise DataError(f"{name}: a heat map is [row, column], not of shape {list(heat.shape)}.")
        if not np.isfinite(heat).all():
            raise DataError(f"{name}: {int((~np.isfinite(heat)).sum())} values of the heat map are not finite.")
    if all(heat is None for heat in maps):
        raise SettingError("There is no heat map among the panels.")
    return [_Panel(*each) for each in zip(shown, maps, names, strict=True)]


class _Drawing(NamedTuple):
    """Panels side by side, on axes in pixels of the picture."""

    traces: list[go.Heatmap]
    notes: list[dict]
    image: dict
    axes: dict[str, dict]


def _draw(strip: Sequence[_Panel], place: int, together: int, width: int) -> _Drawing:
    _, rows, columns = strip[0].picture.shape
    step = columns + round(_GAP * columns)
    gap = step - columns
    names = _axes(place)
    x, y = (name.replace("axis", "") for name in names)
    traces, notes = [], []
    for k, panel in enumerate(strip):
        notes.append({
            "text": literal(panel.name, width), "xref": x, "yref": y, "x": k * step, "y": 0, "xanchor": "left",
            "yanchor": "bottom", "xshift": -1, "align": "left", "showarrow": False, "font": {"size": 12},
            "borderpad": 0,
        })  # fmt: skip
        if panel.heat is not None:
            dx, dy = columns / panel.heat.shape[1], rows / panel.heat.shape[0]
            traces.append(go.Heatmap(
                z=panel.heat, x0=k * step + dx / 2, dx=dx, y0=dy / 2, dy=dy, xaxis=x, yaxis=y, coloraxis="coloraxis",
                name=literal(panel.name), hovertemplate="%{z:.3g}<extra>%{fullData.name}</extra>",
            ))  # fmt: skip
    image = {
        "source": _sheet(strip, step), "sizing": "stretch", "layer": "below", "xref": x, "yref": y, "x": 0, "y": 0,
        "sizex": len(strip) * step - gap, "sizey": rows,
    }  # fmt: skip
    hidden = {"visible": False, "constrain": "domain"}
    across = {**hidden, "range": [0, together * step - gap], "constraintoward": "left", "anchor": y}
    down = {**hidden, "range": [rows, 0], "constraintoward": "top", "anchor": x, "scaleanchor": x}
    return _Drawing(traces, notes, image, {names[0]: across, names[1]: down})


def _sheet(strip: Sequence[_Panel], step: int) -> str:
    """The pictures of a strip as one data URI: PNG, or JPEG for large ones if that is shorter."""
    _, rows, columns = strip[0].picture.shape
    kind = "RGB" if any(panel.heat is None for panel in strip) else "L"
    sheet = Image.new(kind, (len(strip) * step - (step - columns), rows), "white")
    for k, panel in enumerate(strip):
        picture = panel.image()
        if panel.heat is not None:
            picture = picture.convert("L").point([90 + value * 165 // 255 for value in range(256)])
        sheet.paste(picture.convert(kind), (k * step, 0))
    found = []
    for file, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85}))[: 1 if sheet.height <= _SMALL else 2]:
        buffer = io.BytesIO()
        sheet.save(buffer, file, **options)
        found.append(f"data:image/{file};base64," + base64.b64encode(buffer.getvalue()).decode("ascii"))
    return min(found, key=len)


def _color_axis(heats: Sequence[np.ndarray], diverging: bool, limit: float | None) -> tuple[dict, bool]:
    """The color scale, and whether values lie beyond it."""
    if limit is not None and not 0 < limit < math.inf:
        raise SettingError(f"The end of a color scale is positive, not {limit}.")
    low, top = min(min(float(heat.min()) for heat in heats), 0.0), max(float(heat.max()) for heat in heats)
    largest = max(top, -low) if diverging else top
    end = limit or (largest if largest > 0 else 1.0)
    colors = _DIVERGING if diverging else _RISING
    axis = {
        "colorscale": [[k / (len(colors) - 1), color] for k, color in enumerate(colors)],
        "cmin": -end if diverging else min(low, 0.0),
        "cmax": end,
        "colorbar": {
            "orientation": "h", "yanchor": "top", "thickness": 12, "len": 1, "xpad": 0, "ypad": 0, "nticks": 6,
            "exponentformat": "power", "outlinewidth": 1, "outlinecolor": "#9AA0A6",
        },
    }  # fmt: skip
    return axis, limit is not None and largest > limit
