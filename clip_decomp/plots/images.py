"""Grids of pictures: as one embedded PNG, or as a figure with a name beside each row."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from jaxtyping import UInt8
from PIL import Image

from ..errors import DataError
from .look import layout, literal

_SCALE, _GAP = 2, 4
#: Height of a sheet's row in pixels.
_ROW = 84


def pictures(grid: Sequence[Sequence[UInt8[np.ndarray, "3 row column"]]]) -> str:
    """A grid of pictures as the data URI of one PNG, each pixel doubled; rows are captioned by whoever shows it.

    Rows may differ in length. All pictures must have one size; tensors on the CPU will do.

    Raises:
        DataError: there are no pictures, or one is not uint8 of [3, row, column] or has another size.
    """
    cells = [[np.asarray(picture) for picture in row] for row in grid]
    columns = max((len(row) for row in cells), default=0)
    if columns == 0:
        raise DataError("There are no pictures to show.")
    shape = next(picture.shape for row in cells for picture in row)
    for picture in (picture for row in cells for picture in row):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[0] != 3 or picture.shape != shape:
            raise DataError(
                f"Pictures in a grid are uint8 of [3, row, column] and one size, not {picture.dtype} of "
                f"{list(picture.shape)} beside {list(shape)}."
            )
    height, width = (_SCALE * side for side in shape[1:])
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, len(cells) * (height + _GAP) - _GAP), "white")
    for i, row in enumerate(cells):
        for j, picture in enumerate(row):
            tile = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
            tile = tile.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (j * (width + _GAP), i * (height + _GAP)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def sheet(rows: Mapping[str, Sequence[UInt8[np.ndarray, "3 row column"]]], title: str) -> go.Figure:
    """Rows of pictures, each under its name.

    Raises:
        DataError: what :func:`pictures` complains about.
    """
    figure, count = go.Figure(), len(rows)
    widest = max((len(row) for row in rows.values()), default=0)
    for place, (name, row) in enumerate(rows.items()):
        top, width = count - place, len(row) / max(widest, 1)
        figure.add_layout_image(
            source=pictures([row]), xref="x", yref="y", x=0, y=top - 0.22, sizex=width, sizey=0.76, xanchor="left"
        )
        figure.add_annotation(
            x=0, y=top, text=literal(name), showarrow=False, xanchor="left", yanchor="top", font={"size": 12}
        )
    figure.add_trace(go.Scatter(x=[0, 1], y=[0, count], mode="markers", marker={"opacity": 0}, hoverinfo="skip"))
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(visible=False, range=[0, count])
    return layout(figure, title, plot=(_ROW + 24) * count, below=10)
