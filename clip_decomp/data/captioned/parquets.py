"""Pairs from parquet files with a picture and a caption column, pictures as bytes or Hugging Face's ``{bytes, path}``.

Captions are read at once. Pictures are read with their row group; groups are kept while they fit into
:data:`CACHE_BYTES`. Beyond that every picture costs the reading of its group, so large files should be written with
small groups (``row_group_size=100``, as Hugging Face does).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import DataError
from .table import CAPTION_COLUMNS, CaptionTable, Found, choose, collect, read_part

#: Row groups with pictures that are kept in memory.
CACHE_BYTES = 1 << 30
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes", "image_bytes")


@dataclass
class RowGroups:
    """The image columns of some files, a row group at a time.

    Attributes:
        files: opened files (``pyarrow.parquet.ParquetFile``) and the names of their image columns.
        kept: the groups that were used last.
    """

    files: dict[str, tuple[Any, str]] = field(default_factory=dict)
    kept: OrderedDict[tuple[str, int], Any] = field(default_factory=OrderedDict)

    def value(self, file: str, group: int, place: int) -> bytes | dict | None:
        """The cell at ``place`` of a row group."""
        if (file, group) not in self.kept:
            opened, column = self.files[file]
            self.kept[file, group] = opened.read_row_group(group, columns=[column]).column(0)
            while len(self.kept) > 1 and sum(column.nbytes for column in self.kept.values()) > CACHE_BYTES:
                self.kept.popitem(last=False)
        self.kept.move_to_end((file, group))
        return self.kept[file, group][place].as_py()


@dataclass(frozen=True, slots=True)
class ParquetPicture:
    """A picture in a cell of a parquet file."""

    groups: RowGroups = field(repr=False, compare=False)
    file: str
    row: int
    group: int
    place: int

    @property
    def name(self) -> str:
        """The file and the row in it."""
        return f"{self.file}, row {self.row}"

    @property
    def path(self) -> None:
        """It is no file of its own."""
        return None

    def missing(self) -> bool:
        """Whether the cell holds neither bytes nor the name of a file."""
        return not any(self._cell())

    def read(self) -> bytes:
        """The cell's bytes, or those of the file that it names."""
        data, file = self._cell()
        return data or (read_part(os.path.join(os.path.dirname(self.file), file), self.name) if file else b"")

    def _cell(self) -> tuple[bytes | None, str | None]:
        """Bytes, and the name of a file that has them instead."""
        import pyarrow as pa

        try:
            value = self.groups.value(self.file, self.group, self.place)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.name}: cannot be read ({error}).") from error
        return (value["bytes"], value.get("path")) if isinstance(value, dict) else (value, None)


def read_parquets(
    name: str, files: Sequence[Path], image: str | None = None, caption: str | None = None
) -> CaptionTable:
    """The pairs of some parquet files, in the order of the files.

    Raises:
        DataError: a file is not parquet, lacks a column, or there is no usable pair.
    """
    groups, columns = RowGroups(), []

    def found() -> Iterator[Found]:
        for file in files:
            columns[:] = columns_of(file)
            yield from _found(file, groups, image, caption)

    return collect(name, found(), f"Columns: {columns_of(files[0])}.")


def columns_of(file: Path) -> list[str]:
    """The names of a parquet file's columns.

    Raises:
        DataError: it is not parquet.
    """
    return list(_open(file).schema_arrow.names)


def _open(file: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, memory_map=True)  # no file position that forked processes would share
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file}: not a readable parquet file ({error}).") from error


def _found(file: Path, groups: RowGroups, image: str | None, caption: str | None) -> Iterator[Found]:
    import pyarrow as pa

    opened = _open(file)
    names = list(opened.schema_arrow.names)
    pictures = choose(str(file), names, image, IMAGE_COLUMNS, "picture")
    texts = choose(str(file), names, caption, CAPTION_COLUMNS, "caption")
    _check(file, pictures, texts, opened.schema_arrow)
    groups.files[str(file)] = (opened, pictures)
    row = 0
    for group in range(opened.num_row_groups):
        try:
            captions = opened.read_row_group(group, columns=[texts]).column(0).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file}: row group {group} cannot be read ({error}).") from error
        scan = _has_gaps(opened.metadata.row_group(group), pictures)
        for place, text in enumerate(captions):
            picture = ParquetPicture(groups, str(file), row, group, place)
            yield Found(picture.name, text or "", picture, "there is no picture" if scan and picture.missing() else "")
            row += 1


def _has_gaps(group, column: str) -> bool:
    """Whether some pictures of a row group may be null, by its statistics."""
    parts = [group.column(k) for k in range(group.num_columns)]
    own = [part.statistics for part in parts if part.path_in_schema in (column, f"{column}.bytes")]
    return any(each is None or not each.has_null_count or each.null_count > 0 for each in own)


def _check(file: Path, pictures: str, texts: str, schema) -> None:
    import pyarrow.types as types

    kind = schema.field(pictures).type
    inner = kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (types.is_binary(inner) or types.is_large_binary(inner)):
        raise DataError(f"{file}: column {pictures!r} must hold encoded pictures (bytes), not {kind}.")
    kind = schema.field(texts).type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)):
        raise DataError(f"{file}: column {texts!r} must hold texts, not {kind}.")
