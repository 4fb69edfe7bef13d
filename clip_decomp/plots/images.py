"""Grids of pictures as one embedded PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..errors import DataError

_SCALE, _GAP = 2, 4


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
