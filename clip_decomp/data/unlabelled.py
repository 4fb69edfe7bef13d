"""Pictures without labels, for whoever has nothing else: calibration and audits.

Example:
    >>> found = open_unlabelled("world", 64, count=40)
    >>> found.pixels.shape, found.class_names[:2]
    (torch.Size([40, 3, 64, 64]), ('banana', 'apple'))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError
from . import open_data
from .files import open_folder, open_images
from .sets import PLAIN_TEMPLATE


@dataclass(frozen=True)
class Unlabelled:
    """Pictures in memory.

    Attributes:
        pixels: in 0..1.
        class_names: what the data say that there is in them, if they say it.
        skipped: a line for every picture that could not be read.
    """

    name: str
    pixels: Float[Tensor, "image 3 row column"]
    class_names: tuple[str, ...] | None
    templates: tuple[str, ...]
    skipped: tuple[str, ...]


def open_unlabelled(spec: str, size: int, count: int | None = None, seed: int = 0) -> Unlabelled:
    """Pictures of a folder, whatever folders are in it, or the held-out ones of data that ``open_data`` opens.

    Args:
        size: pictures are resized and cropped to this.
        count: at most this many, evenly spread; all by default.

    Raises:
        DataError: there are no pictures that can be read.
    """
    if count is not None and count < 1:
        raise DataError(f"Cannot work on {count} images: ask for one or more.")
    place = Path(spec)
    if not place.is_dir() or any(place.glob("*-val.parquet")):
        held_out = open_data(spec, size, seed).held_out.first(count)
        pixels, _ = held_out.load()
        return Unlabelled(
            held_out.name, pixels.float() / 255, held_out.class_names, held_out.templates, tuple(held_out.skipped)
        )
    source = open_images(place, size)
    pixels, skipped = [], []
    for index in torch.linspace(0, len(source) - 1, min(count or len(source), len(source))).long().tolist():
        try:
            pixels.append(source.read(index))
        except DataError as error:
            skipped.append(str(error))
    if not pixels:
        raise DataError(f"{spec}: none of its pictures can be read: {'; '.join(skipped[:3])}.")
    names = _folders_names(place, size)
    return Unlabelled(place.name, torch.stack(pixels).float() / 255, names, (PLAIN_TEMPLATE,), tuple(skipped))


def _folders_names(place: Path, size: int) -> tuple[str, ...] | None:
    """Names of the folders in a folder, where each holds the pictures of a class."""
    try:
        return open_folder(place, size).class_names
    except DataError:
        return None


def read_class_names(file: Path) -> tuple[str, ...]:
    """Class names of a text file, one a line.

    Raises:
        DataError: it cannot be read, or a name occurs twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable list of class names ({error}).") from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file}: class names must differ, but {twice[:3]} occur more than once.")
    return names
