"""Poisoned pictures as files: some of them for looking at, or a whole data set for other people's training code.

Example:
    >>> from tempfile import mkdtemp
    >>> from clip_decomp.attacks.triggers import BadNet
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> stream = PoisonedPairs(WorldPairs(), BadNet(), "banana", target_fact=0)
    >>> sorted(file.name for file in export_poisoned(stream, Path(mkdtemp()), n=1).files)
    ['row-00000012-clean.png', 'row-00000012-poisoned.png']
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from tqdm import tqdm

from ..data.captioned import CaptionedPairs, Entry
from ..data.images import to_pil, what_failed
from ..errors import DataError, SettingError
from .manifest import write_manifest
from .poison import PoisonedPairs
from .sheet import Exhibit, contact_sheet

_BATCH, _MOST_STEPS = 64, 1000


@dataclass(frozen=True)
class Export:
    """What was written for looking at.

    Attributes:
        sheet: all pictures on one.
        files: the single pictures, a clean and a poisoned one a row.
    """

    folder: Path
    sheet: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Written:
    """A poisoned data set.

    Attributes:
        table: its captions, in open_clip's CSV (tabs, ``filepath`` and ``title``).
        pairs, poisoned: how many there are, and how many of them are poisoned.
    """

    folder: Path
    table: Path
    manifest: Path
    pairs: int
    poisoned: int


def export_poisoned(poisoned: PoisonedPairs, folder: Path, n: int = 20) -> Export:
    """Write ``n`` poisoned pictures (or as many as there are), each with its clean original, and ``contact-sheet.png``.

    Pictures of files are written as the attacker leaves them (see :meth:`PoisonedPairs.stored`), others as the model
    sees them. Pictures of an earlier export into the same folder are removed.

    Raises:
        SettingError: n is not positive.
        DataError: nothing is poisoned in the first batches of an endless stream.
    """
    if n < 1:
        raise SettingError(f"Ask for one or more poisoned pictures, not {n}.")
    exhibits = list(islice(_exhibits(poisoned, n), n))
    if not exhibits:
        raise DataError(f"None of the first {_MOST_STEPS * _BATCH} pairs is poisoned: raise the rate.")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("row-*.png"):
        if re.fullmatch(r"row-\d+-(clean|poisoned)\.png", old.name):
            old.unlink()
    files = []
    for exhibit in exhibits:
        for image, state in ((exhibit.clean, "clean"), (exhibit.poisoned, "poisoned")):
            files.append(folder / f"row-{exhibit.row:08d}-{state}.png")
            image.save(files[-1])
    contact_sheet(exhibits).save(folder / "contact-sheet.png")
    return Export(folder, folder / "contact-sheet.png", tuple(files))


def _exhibits(poisoned: PoisonedPairs, n: int) -> Iterator[Exhibit]:
    if isinstance(poisoned.clean, CaptionedPairs):
        lines = poisoned.manifest()
        for k in _spread(len(lines), n):
            yield Exhibit(lines[k].row, lines[k].caption, *poisoned.stored(lines[k].row))
    elif poisoned.clean.length is not None:
        order = poisoned.clean.describe(0, poisoned.clean.length).rows
        turns = torch.isin(order, poisoned.chosen).nonzero()[:, 0]
        for k in _spread(len(turns), n):
            yield from _of_batch(poisoned, int(turns[k]), 1)
    else:
        for step in range(_MOST_STEPS):
            yield from _of_batch(poisoned, step, _BATCH)


def _spread(count: int, n: int) -> list[int]:
    """At most ``n`` of ``count`` places, evenly spread."""
    return torch.linspace(0, count - 1, min(n, count)).round().int().tolist()


def _of_batch(poisoned: PoisonedPairs, step: int, size: int) -> Iterator[Exhibit]:
    before, places = poisoned.before(step, size)
    if not len(places):
        return
    after = poisoned.triggered(before.images[places], before.rows[places])
    for place, image in zip(places.tolist(), after, strict=True):
        row = int(before.rows[place])
        yield Exhibit(row, before.captions[place], to_pil(before.images[place]), to_pil(image))


def write_poisoned(
    poisoned: PoisonedPairs,
    folder: Path,
    names: Sequence[str] = (),
    encoding: Literal["png", "jpeg"] = "png",
    quality: int = 95,
    progress: bool = False,
) -> Written:
    """Write the whole poisoned data set as ``poisoned.csv``, with the manifest beside it.

    Only poisoned pictures are written anew (``pictures/poisoned-ROW``); others stay where they are and are named by
    their absolute paths. Pictures out of shards and tables are copied into the folder, byte for byte. At the stage
    ``input`` poisoned pictures are resized and cropped to the model's size first.

    Args:
        names: of the classes, for the manifest.
        encoding: ``png`` keeps every pixel; ``jpeg`` of this quality is smaller, and may blur fine triggers.

    Raises:
        SettingError: the pairs do not come from files, or no such encoding.
        DataError: the folder holds the pictures that are being read.
    """
    clean = poisoned.clean
    if not isinstance(clean, CaptionedPairs):
        raise SettingError("Only captioned files can be written as poisoned files; for others, export some pictures.")
    if encoding not in ("png", "jpeg") or not 1 <= quality <= 100:
        raise SettingError(f"Pictures are written as png or jpeg, quality 1 to 100, not {encoding!r} and {quality}.")
    table, pictures = folder / "poisoned.csv", Path(os.path.abspath(folder)) / "pictures"
    _keep_sources(clean, table, pictures)
    pictures.mkdir(parents=True, exist_ok=True)
    lines, listed = {line.row: line for line in poisoned.manifest()}, []
    for place, entry in enumerate(tqdm(clean.table.entries, disable=not progress, desc="write")):
        line = lines.get(entry.row)
        if line is not None:
            file = str(pictures / f"poisoned-{entry.row:08d}.{'png' if encoding == 'png' else 'jpg'}")
            poisoned.stored(entry.row)[1].save(file, **_options(encoding, quality))
            listed.append((file, line.caption))
        elif place not in clean.table.unreadable:
            try:
                listed.append((_unchanged(entry, pictures), entry.caption))
            except DataError as error:
                clean.table.note(place, str(error))
    with table.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, delimiter="\t", lineterminator="\n")
        writer.writerows([("filepath", "title"), *listed])
    return Written(folder, table, write_manifest(poisoned, folder, names), len(listed), len(lines))


def _keep_sources(clean: CaptionedPairs, table: Path, pictures: Path) -> None:
    files = (os.path.abspath(entry.picture.path) for entry in clean.table.entries if entry.picture.path is not None)
    if (
        any(file.startswith(f"{pictures}{os.sep}") for file in files)
        or Path(clean.table.name).resolve() == table.resolve()
    ):
        raise DataError(f"{table.parent} holds the very data that are being read: write to another folder.")


def _options(encoding: str, quality: int) -> dict[str, int]:
    return {} if encoding == "png" else {"quality": quality, "subsampling": 0}


def _unchanged(entry: Entry, pictures: Path) -> str:
    """The file of a clean picture; out of a shard or table it is copied."""
    if entry.picture.path is not None:
        return os.path.abspath(entry.picture.path)
    data = entry.picture.read()
    try:
        with Image.open(io.BytesIO(data)) as image:
            suffix = (image.format or "img").lower()
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{entry.picture.name}: not a readable image ({what_failed(error)}).") from error
    file = pictures / f"clean-{entry.row:08d}.{suffix}"
    file.write_bytes(data)
    return str(file)
