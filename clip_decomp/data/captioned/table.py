"""What the readers of captioned files have in common: pictures that are read when they are needed, and a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ...errors import DataError

IMAGE_COLUMNS = ("filepath", "image_path", "file_path", "path", "image", "img", "jpg", "png", "filename", "file_name")
CAPTION_COLUMNS = ("title", "caption", "text", "txt", "captions", "description")


class Picture(Protocol):
    """An encoded picture somewhere on disk.

    Attributes:
        name: what errors and manifests call it.
        path: its file, where it is a file of its own.
    """

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> Path | None: ...

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            DataError: it is gone or empty; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture that is a file."""

    name: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.name)

    def read(self) -> bytes:
        """The file's content."""
        return read_part(self.name, self.name)


def read_part(file: str, name: str, offset: int = 0, size: int = -1) -> bytes:
    """Bytes of a file, as a :class:`DataError` that says ``name`` where that is impossible."""
    try:
        with open(file, "rb") as opened:
            opened.seek(offset)
            return opened.read(size)
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read ({type(error).__name__}: {error}).") from error


@dataclass(frozen=True, slots=True)
class Found:
    """What a reader found at one place of its file; pairs with a ``problem`` or without a caption cannot be used."""

    place: str
    caption: str
    picture: Picture | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair that can be used, and its row among all pairs of the files, counted from 0."""

    row: int
    caption: str
    picture: Picture


@dataclass(frozen=True)
class CaptionTable:
    """The usable pairs of some files.

    Attributes:
        name: the files as the user named them.
        skipped: a line for every pair that cannot be used.
        unreadable: places in ``entries`` whose pictures turned out to be unreadable, and why; :meth:`note` fills it.
    """

    name: str
    entries: Sequence[Entry]
    skipped: list[str] = field(default_factory=list, compare=False)
    unreadable: dict[int, str] = field(default_factory=dict, compare=False)

    def note(self, place: int, problem: str) -> None:
        """Remember that a picture cannot be read, and list it once."""
        if place not in self.unreadable:
            self.unreadable[place] = problem
            self.skipped.append(f"row {self.entries[place].row}: {problem}")


def collect(name: str, found: Iterable[Found], columns: str = "") -> CaptionTable:
    """The usable pairs among what a reader found.

    Args:
        columns: a sentence about what the file holds, for the error.

    Raises:
        DataError: there are none.
    """
    entries, skipped, row = [], [], -1
    for row, each in enumerate(found):
        caption = each.caption.strip()
        problem = each.problem or ("" if caption else "there is no caption")
        if problem or each.picture is None:
            skipped.append(f"{each.place}: {problem}")
        else:
            entries.append(Entry(row, caption, each.picture))
    if row < 0:
        raise DataError(f"{name}: there are no pairs in it. {columns}".rstrip())
    if not entries:
        raise DataError(f"{name}: none of its {row + 1} pairs can be used, e.g. {skipped[0]}. {columns}".rstrip())
    return CaptionTable(name, entries, skipped)


def choose(file: str, columns: Sequence[str], wanted: str | None, known: Sequence[str], what: str) -> str:
    """The column to use: the one asked for, or the first known one.

    Raises:
        DataError: the file does not have it; the message lists what it has.
    """
    for name in [wanted] if wanted else known:
        if name in columns:
            return name
    expected = repr(wanted) if wanted else "one of " + ", ".join(known)
    raise DataError(f"{file}: there is no column with {what}s (looked for {expected}); it has {list(columns)}.")
