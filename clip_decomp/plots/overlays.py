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
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, UInt8
from PIL import Image

from ..errors import DataError, SettingError
from .look import layout, literal, screens, set_height

_Picture = UInt8[np.ndarray, "3 row column"]
_Heat = Float[np.ndarray, "row column"]

#: Width in pixels that panels are laid out for on a desk and on a phone, and the largest panel.
_WIDE, _NARROW, _LARGEST = 930, 420, 300
_GAP, _LINE, _BELOW = 0.06, 16, 66
_DIVERGING = (
    "rgba(0,68,136,0.9)",
    "rgba(0,114,178,0.55)",
    "rgba(255,255,255,0)",
    "rgba(213,94,0,0.6)",
    "rgba(140,30,0,0.9)",
)
_RISING = ("rgba(255,255,255,0)", "rgba(230,159,0,0.55)", "rgba(213,94,0,0.75)", "rgba(120,20,0,0.9)")


def overlay(
    picture: _Picture,
    heat: _Heat,
    title: str,
    colorbar_title: str,
    diverging: bool = True,
    limit: float | None = None,
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
    columns = columns or _default_columns(len(panels))
    narrow_columns = narrow_columns or -(-columns // 2)
    if columns < 1 or narrow_columns < 1:
        raise SettingError(f"A grid has one column or more, not {columns} and {narrow_columns}.")
    together = math.gcd(columns, narrow_columns)
    strips = [panels[start : start + together] for start in range(0, len(panels), together)]
    width = 9 * _NARROW // (60 * narrow_columns)
    figure = go.Figure()
    for place, strip in enumerate(strips):
        _draw(figure, strip, place, together, width)
    grids = [
        _Grid(len(strips), together, across // together, screen, panels[0].aspect, _lines(panels, width))
        for across, screen in ((columns, _WIDE), (narrow_columns, _NARROW))
    ]
    wide, narrow = (grid.domains() for grid in grids)
    # The color bar lies below the panels, whatever their height.
    bars = [{"coloraxis.colorbar.y": -4 / grid.height} for grid in grids]
    for key, value in wide.items():
        axis, setting = key.split(".")
        figure.update_layout({axis: {setting: value}})
    scale, clipped = _color_axis([panel.heat for panel in panels if panel.heat is not None], diverging, limit)
    label = literal(colorbar_title + (f" (beyond {limit:g}: last color)" if clipped else ""))
    scale["colorbar"]["title"] = {"text": label, "side": "top", "font": {"size": 13}}
    scale["colorbar"]["y"] = bars[0]["coloraxis.colorbar.y"]
    figure.update_layout(coloraxis=scale)
    below = _BELOW + _LINE * label.count("<br>")
    layout(figure, title, plot=grids[0].height, below=below)
    figure.update_layout(margin_b=below)
    desk = figure.layout.height
    set_height(figure, desk, desk + grids[1].height - grids[0].height)
    screens(figure, wide | bars[0], narrow | bars[1])
    return figure


@dataclass(frozen=True)
class _Panel:
    picture: np.ndarray
    heat: np.ndarray | None
    name: str

    @property
    def aspect(self) -> float:
        return self.picture.shape[1] / self.picture.shape[2]


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

    def domains(self) -> dict[str, list[float]]:
        columns = self.across * self.together
        unit = 1 / (columns + _GAP * (columns - 1))
        step, width = unit * self.together * (1 + _GAP), unit * (self.together + _GAP * (self.together - 1))
        found = {}
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


def _default_columns(panels: int) -> int:
    if panels <= 4:
        return panels
    return 6 if panels <= 24 else 12


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


def _lines(panels: Sequence[_Panel], width: int) -> int:
    return max(literal(panel.name, width).count("<br>") for panel in panels) + 1


def _draw(figure: go.Figure, strip: Sequence[_Panel], place: int, together: int, width: int) -> None:
    """Panels side by side on axes in pixels of the picture."""
    _, rows, columns = strip[0].picture.shape
    step = columns + round(_GAP * columns)
    x_axis, y_axis = (name.replace("axis", "") for name in _axes(place))
    for k, panel in enumerate(strip):
        if panel.heat is not None:
            dx, dy = columns / panel.heat.shape[1], rows / panel.heat.shape[0]
            figure.add_trace(
                go.Heatmap(
                    z=panel.heat, x0=k * step + dx / 2, dx=dx, y0=dy / 2, dy=dy, xaxis=x_axis, yaxis=y_axis,
                    name=literal(panel.name), hovertemplate="%{z:.3g}<extra>%{fullData.name}</extra>",
                    coloraxis="coloraxis",
                )
            )  # fmt: skip
        figure.add_annotation(
            text=literal(panel.name, width), xref=x_axis, yref=y_axis, x=k * step, y=0, xanchor="left",
            yanchor="bottom", xshift=-1, align="left", showarrow=False, font={"size": 12}, borderpad=0,
        )  # fmt: skip
    figure.add_layout_image(
        source=_sheet(strip, step), xref=x_axis, yref=y_axis, x=0, y=0, sizex=len(strip) * step - (step - columns),
        sizey=rows, sizing="stretch", layer="below",
    )  # fmt: skip
    names = dict(zip("xy", _axes(place), strict=True))
    hidden = {"visible": False, "constrain": "domain"}
    across = {**hidden, "range": [0, together * step - (step - columns)], "constraintoward": "left", "anchor": y_axis}
    down = {**hidden, "range": [rows, 0], "constraintoward": "top", "anchor": x_axis, "scaleanchor": x_axis}
    figure.update_layout({names["x"]: across, names["y"]: down})


def _sheet(strip: Sequence[_Panel], step: int) -> str:
    """The pictures of a strip as one image: a data URI, PNG or JPEG, whichever is shorter."""
    _, rows, columns = strip[0].picture.shape
    kind = "RGB" if any(panel.heat is None for panel in strip) else "L"
    sheet = Image.new(kind, (len(strip) * step - (step - columns), rows), "white")
    for k, panel in enumerate(strip):
        picture = Image.fromarray(np.ascontiguousarray(panel.picture.transpose(1, 2, 0)))
        if panel.heat is not None:
            picture = picture.convert("L").point(lambda value: 90 + value * 165 // 255)
        sheet.paste(picture.convert(kind), (k * step, 0))
    found = []
    for file, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
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
            "orientation": "h", "yanchor": "top", "thickness": 12, "len": 1, "nticks": 6, "exponentformat": "power",
            "outlinewidth": 1, "outlinecolor": "#9AA0A6",
        },
    }  # fmt: skip
    return axis, limit is not None and largest > limit
