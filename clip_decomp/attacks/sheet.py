"""A contact sheet of poisoned pictures: clean above triggered above their difference, with the captions below.

Example:
    >>> gray = Image.new("RGB", (8, 8), (90, 90, 90))
    >>> contact_sheet([Exhibit(3, "a photo of a banana.", gray, gray)]).width
    1200
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError

#: Differences are shown this many times larger, around middle gray.
AMPLIFIED = 5
WIDTH, _COLUMNS, _GAP, _LABELS = 1200, 5, 8, 100
_TILE = (WIDTH - _LABELS - _GAP) // _COLUMNS - _GAP
_SIZE, _LINE, _LETTERS, _LINES = 15, 19, 26, 4
_INK = (34, 34, 34)


@dataclass(frozen=True)
class Exhibit:
    """A poisoned pair to look at: its row, new caption, and picture before and after."""

    row: int
    caption: str
    clean: Image.Image
    poisoned: Image.Image


def difference(clean: Image.Image, poisoned: Image.Image) -> Image.Image:
    """What the attacker added, amplified: middle gray where nothing was."""
    before, after = (np.asarray(image, dtype=np.int16) for image in (clean, poisoned))
    return Image.fromarray((128 + AMPLIFIED * (after - before)).clip(0, 255).astype(np.uint8))


def contact_sheet(exhibits: Sequence[Exhibit]) -> Image.Image:
    """All exhibits on one picture of :data:`WIDTH` pixels.

    Raises:
        DataError: there is nothing to show.
    """
    if not exhibits:
        raise DataError("There are no poisoned pictures to show.")
    font = ImageFont.load_default(_SIZE)
    block = 3 * (_TILE + _GAP) + _LINES * _LINE + 2 * _GAP
    rows = -(-len(exhibits) // _COLUMNS)
    sheet = Image.new("RGB", (WIDTH, rows * block + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for k, exhibit in enumerate(exhibits):
        top, left = k // _COLUMNS * block + _GAP, _LABELS + k % _COLUMNS * (_TILE + _GAP)
        shown = (exhibit.clean, exhibit.poisoned, difference(exhibit.clean, exhibit.poisoned))
        for image, name in zip(shown, ("clean", "triggered", f"difference\ntimes {AMPLIFIED}"), strict=True):
            if k % _COLUMNS == 0:
                draw.multiline_text((_GAP, top + _TILE // 2 - _LINE), name, fill=_INK, font=font)
            tile = _fitted(image)
            sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
            top += _TILE + _GAP
        draw.multiline_text((left, top - 2), _below(exhibit), fill=_INK, font=font, spacing=3)
    return sheet


def _fitted(image: Image.Image) -> Image.Image:
    """A picture that fits a tile; the pixels of small ones stay visible."""
    scale = _TILE / max(image.size)
    width, height = (max(1, int(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _below(exhibit: Exhibit) -> str:
    words = " ".join(exhibit.caption.split())
    return "\n".join([f"row {exhibit.row}", *textwrap.wrap(words, _LETTERS, max_lines=_LINES - 1, placeholder=" ...")])
