"""Pairs from WebDataset shards: tar files in which neighbors of one name, ``000.jpg`` and ``000.txt``, are a pair.

The headers of a shard are read once, for an index of places; a picture is then read straight from its place.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ..images import SUFFIXES
from .table import CAPTION_COLUMNS, CaptionTable, Found, collect, read_part

#: Longer captions are a mistake, in bytes.
MAX_CAPTION = 1 << 20
#: WebDataset's rule: the name up to the first dot is the sample, the rest says what it holds.
_MEMBER = re.compile(r"((?:.*/|)[^./]+)\.([^/]*)")
_TEXTS = ("txt", "text", "caption", "json")


@dataclass(frozen=True, slots=True)
class ShardPicture:
    """A picture inside a tar file."""

    shard: str
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The shard and its member."""
        return f"{self.shard}/{self.member}"

    @property
    def path(self) -> None:
        """It is no file of its own."""
        return None

    def read(self) -> bytes:
        """The member's content."""
        return read_part(self.shard, self.name, self.offset, self.size)


def read_shards(name: str, files: Sequence[Path]) -> CaptionTable:
    """The pairs of some shards, in the order of the files.

    Raises:
        DataError: a shard is no plain tar file, or there is no usable pair.
    """
    return collect(name, itertools.chain.from_iterable(_found(file) for file in files))


def _found(file: Path) -> Iterator[Found]:
    members, problem = _index(file)
    for key, group in itertools.groupby(members, key=lambda each: each[0]):
        yield _pair(file, key, {kind.lower(): member for _, kind, member in group})
    if problem:
        yield Found(str(file), "", None, problem)


def _index(file: Path) -> tuple[list[tuple[str, str, tarfile.TarInfo]], str]:
    """Sample, kind and header of every file that is there as a whole; and what is wrong with the shard, if anything."""
    members, problem, length = [], "", file.stat().st_size
    try:
        with tarfile.open(file, mode="r:") as shard, file.open("rb") as raw:
            try:
                members.extend(shard)
            except (OSError, tarfile.TarError) as error:
                problem = str(error)
            raw.seek(shard.offset)
            if not problem and raw.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a bad header for the end
                problem = "bad header"
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{file}: not a plain tar file ({error}); unpack compressed shards first.") from error
    whole = [member for member in members if member.isreg() and member.offset_data + member.size <= length]
    named = [(parts[1], parts[2], member) for member in whole if (parts := _MEMBER.fullmatch(member.name))]
    after = f" after {whole[-1].name}" if whole else ""
    return named, f"the shard is damaged{after} ({problem})" if problem else ""


def _pair(file: Path, key: str, kinds: dict[str, tarfile.TarInfo]) -> Found:
    where = f"{file}/{key}"
    picture = next((member for kind, member in kinds.items() if f".{kind}" in SUFFIXES and member.size), None)
    if picture is None:
        return Found(where, "", None, f"there is no picture among {', '.join(sorted(kinds))}")
    text = next(((kind, kinds[kind]) for kind in _TEXTS if kind in kinds), None)
    if text is None:
        return Found(where, "", None, f"there is no caption among {', '.join(sorted(kinds))}")
    place = ShardPicture(str(file), picture.name, picture.offset_data, picture.size)
    try:
        return Found(where, _caption(file, *text), place)
    except ValueError as error:
        return Found(where, "", None, f"its caption cannot be read ({error})")


def _caption(file: Path, kind: str, member: tarfile.TarInfo) -> str:
    if member.size > MAX_CAPTION:
        raise ValueError(f"{member.size} bytes are too many")
    text = read_part(str(file), member.name, member.offset_data, member.size).decode()
    if kind != "json":
        return text
    values = json.loads(text)
    found = [values[name] for name in CAPTION_COLUMNS if isinstance(values, dict) and isinstance(values.get(name), str)]
    if not found:
        raise ValueError(f"the JSON has no text under {' or '.join(CAPTION_COLUMNS[:3])}")
    return found[0]
