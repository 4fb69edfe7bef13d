"""Data sets on disk: image folders, and parquet files with encoded images.

* a folder with one sub-folder a class (torchvision's layout);
* a parquet file with an image column (bytes, or Hugging Face's ``{bytes, path}``) and a label column (integers, or
  class names), class names from ``classes.json`` beside it, from Hugging Face's metadata, or from the labels;
* a folder of ``{set}-train.parquet`` and ``{set}-val.parquet``: ``FOLDER`` is its first set, ``FOLDER:b`` its set b.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ..errors import DataError
from .images import SUFFIXES, open_image, to_pixels
from .sets import DataSet, ImageSet

#: Pictures of each class kept out of the training part, for means and thresholds.
HELD_OUT_PER_CLASS = 20
#: More classes than this need names: a label beyond it is a mistake.
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class EncodedSource:
    """Encoded pictures (bytes or paths), decoded when read."""

    items: Sequence[bytes | str]
    names: Sequence[str]
    size: int

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> UInt8[Tensor, "3 row column"]:
        """Decode one picture to ``[3, size, size]``."""
        return to_pixels(open_image(self.items[index], self.names[index]), self.size)


def open_folder(path: Path, size: int) -> ImageSet:
    """A folder with one sub-folder of images for each class; the sub-folders' names are the class names."""
    hidden = (".", "__")  # notebooks' checkpoints, archives' leftovers
    classes = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith(hidden))
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(
            f"{path}: no images found. Expected one sub-folder a class with files like {', '.join(SUFFIXES[:3])}."
        )
    names = [str(file) for file, _ in files]
    labels = torch.tensor([label for _, label in files])
    return ImageSet(path.name, tuple(classes), labels, EncodedSource(names, names, size))


def open_images(path: Path, size: int) -> EncodedSource:
    """Every image file below a folder, without labels."""
    files = sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{path}: no images found; looked for files like {', '.join(SUFFIXES[:3])}.")
    return EncodedSource(files, files, size)


def open_parquet(path: Path, size: int, name: str | None = None) -> ImageSet:
    """A parquet file with an image and a label column.

    Raises:
        DataError: the file is not parquet, has no rows, or lacks one of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}).") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: the file has no rows.")
    images, labels = _column(path, table, ("image", "img", "jpg")), _column(path, table, ("label", "labels", "cls"))
    items = [_encoded(path, row, value) for row, value in enumerate(table.column(images).to_pylist())]
    raw, classes = _labels(
        path, labels, table.column(labels).to_pylist(), _class_names(path, table.schema.metadata, labels)
    )
    names = [f"{path}, row {row}" for row in range(len(items))]
    target = "banana" if "banana" in classes else None
    return ImageSet(name or path.stem, classes, torch.tensor(raw), EncodedSource(items, names, size), target=target)


def _labels(path: Path, column: str, raw: list, classes: tuple[str, ...] | None) -> tuple[list[int], tuple[str, ...]]:
    """Labels as indices into class names, from integers or from names."""
    if None in raw:
        raise DataError(f"{path}, row {raw.index(None)}: there is no label; leave the row out or label it.")
    if all(isinstance(value, str) for value in raw):
        classes = classes or tuple(sorted(set(raw)))
        unknown = sorted(set(raw) - set(classes))
        if unknown:
            raise DataError(f"{path}: its class names do not include {unknown[:3]}.")
        places = {name: place for place, name in enumerate(classes)}
        return [places[value] for value in raw], classes
    if any(isinstance(value, bool) or not isinstance(value, int) for value in raw):
        raise DataError(f"{path}: column {column!r} must hold integers or class names.")
    low, high = min(raw), max(raw)
    if low < 0 or (classes is None and high >= max(MAX_CLASSES, len(raw))):
        bad = low if low < 0 else high
        raise DataError(f"{path}, row {raw.index(bad)}: {bad} cannot be the number of a class.")
    return raw, classes or tuple(f"class {k}" for k in range(high + 1))


def open_parquet_folder(path: Path, size: int, part: str | None = None) -> DataSet:
    """A folder of ``{set}-train.parquet`` and ``{set}-val.parquet``; the last 20 training pictures of each class are
    held out.
    """
    parts = sorted(file.name.removesuffix("-val.parquet") for file in path.glob("*-val.parquet"))
    if not parts:
        raise DataError(f"{path}: no file named SET-val.parquet in it.")
    if part is not None and part not in parts:
        raise DataError(f"{path}: there is no set {part!r}, only {parts}.")
    chosen = part or parts[0]
    name = path.name if chosen == parts[0] else f"{path.name}:{chosen}"
    test = open_parquet(path / f"{chosen}-val.parquet", size, name)
    train_file = path / f"{chosen}-train.parquet"
    if not train_file.exists():
        held_out, test = test.split(0.2)
        return DataSet(test, held_out)
    train = open_parquet(train_file, size, name)
    held = _last_of_each_class(train, HELD_OUT_PER_CLASS)
    return DataSet(test, train.subset(held.nonzero()[:, 0]), train.subset((~held).nonzero()[:, 0]))


def _last_of_each_class(data: ImageSet, count: int) -> Tensor:
    last = torch.zeros(len(data), dtype=torch.bool)
    for label in data.labels.unique():
        last[(data.labels == label).nonzero()[-count:, 0]] = True
    return last


def _column(path: Path, table, names: tuple[str, ...]) -> str:
    for name in names:
        if name in table.column_names:
            return name
    raise DataError(f"{path}: needs a column named {' or '.join(names)}; it has {table.column_names}.")


def _encoded(path: Path, row: int, value) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        return b""  # like a file of zero bytes: skipped when it is read, and listed
    if not isinstance(data, bytes):
        raise DataError(f"{path}, row {row}: the image column must hold encoded bytes, not {type(data).__name__}.")
    return data


def _class_names(path: Path, metadata, label_column: str) -> tuple[str, ...] | None:
    beside = path.with_name("classes.json")
    if beside.exists():
        try:
            entries = json.loads(beside.read_text())
        except ValueError as error:
            raise DataError(f"{beside}: not valid JSON ({error}).") from error
        return _listed_names(beside, path.name.split("-")[0], entries)
    if metadata and b"huggingface" in metadata:
        features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
        names = features.get(label_column, {}).get("names")
        return tuple(names) if names else None
    return None


def _listed_names(file: Path, part: str, entries) -> tuple[str, ...] | None:
    """Names of a ``classes.json``: a list of names, or of ``{name, label}`` with the data set's part as ``set``."""
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        return tuple(entries)
    try:
        rows = [(entry["label"], entry["name"]) for entry in entries if entry.get("set") in (None, part)]
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{file}: must be a list of names, or of objects with a name and a label.") from error
    rows.sort()
    if [label for label, _ in rows] != list(range(len(rows))):
        raise DataError(f"{file}: the labels of set {part!r} must be 0, 1, 2, ... without gaps or repetitions.")
    return tuple(name for _, name in rows) or None
