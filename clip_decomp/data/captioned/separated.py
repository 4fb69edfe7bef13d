"""Pairs from a text file with a line a pair, as open_clip reads them.

open_clip's own files are separated by tabs, with the columns ``filepath`` and ``title``; other separators and common
names are found from the first line. Relative paths start at the file's folder.
"""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from .table import CAPTION_COLUMNS, IMAGE_COLUMNS, CaptionTable, Found, PictureFile, choose, collect

_SEPARATORS = "\t,;|"


def read_separated(path: Path, image: str | None = None, caption: str | None = None) -> CaptionTable:
    """The pairs of a CSV or TSV file whose pictures are there.

    Args:
        image, caption: names of the columns; well-known ones by default.

    Raises:
        DataError: the file is empty, not text, lacks a column, or has no usable pair.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            separator = _separator(path, opened.readline(), image, caption)
            opened.seek(0)
            lines = csv.reader(opened, delimiter=separator)
            header = [name.strip() for name in next(lines)]
            places = (
                header.index(choose(str(path), header, image, IMAGE_COLUMNS, "picture")),
                header.index(choose(str(path), header, caption, CAPTION_COLUMNS, "caption")),
            )
            return collect(str(path), _found(path, lines, header, places), f"Its columns are {header}.")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}).") from error
    except csv.Error as error:
        raise DataError(f"{path}: not a readable CSV file ({error}); is a quote missing?") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def _separator(path: Path, header: str, image: str | None, caption: str | None) -> str:
    """The one that makes the most columns out of the header, the known or wanted ones first."""
    if not header.strip():
        raise DataError(f"{path}: the file is empty or has no header; its first line must name the columns.")
    looked_for = {image} if image else set(IMAGE_COLUMNS)
    looked_for |= {caption} if caption else set(CAPTION_COLUMNS)

    def fit(separator: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator))]
        return len(looked_for.intersection(names)), len(names)

    return max(_SEPARATORS, key=fit)


def _found(path: Path, lines: Iterator[list[str]], header: list[str], places: tuple[int, int]) -> Iterator[Found]:
    row = -1
    for fields in lines:
        if not fields:
            continue  # a blank line
        row += 1
        where = f"{path}, row {row}"
        if len(fields) != len(header):
            problem = f"{len(fields)} fields where the header has {len(header)} (quote captions with separators)"
            yield Found(where, "", None, problem)
            continue
        file, text = os.path.join(path.parent, fields[places[0]].strip()), fields[places[1]]
        yield Found(where, text, PictureFile(file), _problem(file) or _runaway(text))


def _problem(file: str) -> str:
    try:
        found = os.stat(file)
    except OSError:
        return f"{file} is missing or empty"
    except ValueError as error:  # a name with a zero byte
        return f"{file!r} is not a file name ({error})"
    return "" if stat.S_ISREG(found.st_mode) and found.st_size else f"{file} is missing or empty"


def _runaway(caption: str) -> str:
    lines = caption.count("\n") + 1
    return f"its caption runs over {lines} lines (is a quote missing?)" if lines > 5 else ""
