"""Image-caption pairs from files: open_clip's CSV, WebDataset shards, parquet.

* a CSV or TSV file with a picture and a caption column;
* a WebDataset tar file, a folder of them, or a pattern such as ``shards/{000..003}.tar``;
* a parquet file (or folder, or pattern) with a picture and a caption column.

Pictures that are missing are left out when the files are opened, others that cannot be read when their turn comes; all
are listed in :attr:`CaptionedPairs.skipped`. A row number counts all pairs of the files from 0, unusable ones too.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ...errors import DataError
from .parquets import columns_of, read_parquets
from .separated import read_separated
from .shards import read_shards
from .stream import CaptionedPairs, mention
from .table import CAPTION_COLUMNS, CaptionTable, Entry, Picture, PictureFile

__all__ = [
    "CaptionTable",
    "CaptionedPairs",
    "Entry",
    "Picture",
    "PictureFile",
    "expand",
    "is_captioned",
    "mention",
    "open_captioned",
]

log = logging.getLogger(__name__)
_SEPARATED = (".csv", ".tsv")
_LABELS = {"label", "labels", "cls"}


def open_captioned(
    spec: str,
    image_size: int,
    seed: int = 0,
    smallest_crop: float = 1.0,
    class_name: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> CaptionedPairs:
    """Open captioned files by their description.

    Args:
        class_name: the class an attack aims at; pairs whose captions mention it show it.
        image_column, caption_column: of CSV and parquet files; well-known names by default.

    Raises:
        DataError: nothing is there, it cannot be used, or not one of its pictures can be read.
    """
    files = expand(spec)
    kind = files[0].suffix.lower()
    if kind in _SEPARATED:
        if len(files) > 1:
            raise DataError(f"{spec}: that stands for {len(files)} files; CSV files are opened one at a time.")
        table = read_separated(files[0], image_column, caption_column)
    elif kind == ".tar":
        table = read_shards(spec, files)
    elif kind == ".parquet":
        table = read_parquets(spec, files, image_column, caption_column)
    else:
        raise DataError(f"{spec}: captioned pairs come from .csv, .tsv, .tar and .parquet files, not {kind or 'this'}.")
    stream = CaptionedPairs(table, image_size, seed, class_name, smallest_crop)
    stream.batch(0, 1)  # complains where no picture at all can be read
    if table.skipped:
        log.warning("%s: skipped %d pair(s), e.g. %s", spec, len(table.skipped), table.skipped[0])
    if class_name is not None and not stream.shows.any():
        log.warning("%s: no caption mentions the target class %r.", spec, class_name)
    return stream


def is_captioned(spec: str) -> bool:
    """Whether a description names captioned files rather than labelled pictures, as folders with sub-folders hold."""
    place = Path(spec)
    if place.is_dir() and any(child.is_dir() and not child.name.startswith((".", "__")) for child in place.iterdir()):
        return False
    try:
        files = expand(spec)
    except DataError:
        return place.suffix.lower() in (*_SEPARATED, ".tar")
    if files[0].suffix.lower() == ".parquet":
        columns = set(columns_of(files[0]))
        return not columns & _LABELS and bool(columns.intersection(CAPTION_COLUMNS))
    return files[0].suffix.lower() in (*_SEPARATED, ".tar")


def expand(spec: str) -> list[Path]:
    """The files that a description stands for: itself, a pattern's, or a folder's shards or parquet files.

    Raises:
        DataError: one of them is not there.
    """
    place = Path(spec)
    if place.is_dir():
        files = sorted(place.glob("*.tar")) or sorted(place.glob("*.parquet"))
        if not files:
            raise DataError(f"{spec}: there are no .tar or .parquet files in this folder.")
        return files
    files = [place] if place.exists() else [Path(name) for name in braces(spec)]
    missing = [file for file in files if not file.exists()]
    if missing:
        of = f" (of {len(files)} that {spec} stands for, {len(missing)} are missing)" if len(files) > 1 else ""
        raise DataError(f"{missing[0]}: there is no such file{of}.")
    return files


def braces(pattern: str) -> list[str]:
    """What a shell makes of braces.

    Example:
        >>> braces("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    group = re.search(r"\{([^{}]*)\}", pattern)
    if group is None:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", group[1])
    if bounds:
        low, high = int(bounds[1]), int(bounds[2])
        if high < low or high - low >= 1_000_000:
            raise DataError(f"{pattern}: {group[0]} must count upward, to a million at most.")
        choices = [str(number).zfill(len(bounds[1])) for number in range(low, high + 1)]
    else:
        choices = group[1].split(",")
    before, after = pattern[: group.start()], pattern[group.end() :]
    return [each for choice in choices for each in braces(before + choice + after)]
