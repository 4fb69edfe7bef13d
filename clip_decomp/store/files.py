"""Files that are there whole or not at all.

Everything is written in a folder of its own, ``.writing``, forced to the disk and renamed; what is found there at the
start is a killed process's. A safetensors file carries which store it belongs to.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DataError, SettingError

MANIFEST = "manifest.json"
BASIS = "basis.safetensors"
STATISTICS = "statistics.safetensors"
_SCRATCH, _FACTS = ".writing", "clip-decomp"
#: The way out of whatever is wrong with a file.
ANEW = "Bring the right file back, or delete the folder and write the store anew."


def shard_file(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}.safetensors"


def sums_file(folder: Path, number: int) -> Path:
    """Where a shard's sums lie until they are merged."""
    return folder / f"sums-{number:05d}.safetensors"


@dataclass(frozen=True)
class Scratch:
    """A file that is whole but does not have its name yet."""

    place: Path
    target: Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.place.stat().st_size

    def sha256(self) -> str:
        """Hash of the content."""
        return sha256(self.place)

    def publish(self) -> None:
        """Give it its name, in place of whatever had it, for good."""
        os.replace(self.place, self.target)
        _to_disk(self.target.parent)


def scratch_tensors(target: Path, tensors: Mapping[str, Tensor], store: str, facts: Mapping[str, Any]) -> Scratch:
    """Write tensors to a temporary name.

    Args:
        store: the identity of the store they belong to.
        facts: kept beside them, as JSON.
    """
    place = _temporary(target)
    # In an order of their own, so that the bytes do not depend on who collected the tensors.
    content = {name: tensors[name].contiguous() for name in sorted(tensors)}
    place.touch()
    mode = place.stat().st_mode
    # One entry: safetensors writes several in random order.
    save_file(content, place, {_FACTS: json.dumps({"store": store, **facts}, sort_keys=True)})
    place.chmod(mode)  # safetensors lets nobody else read a file, whatever the umask says
    _to_disk(place)
    return Scratch(place, target)


def publish_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, all of it or nothing."""
    place = _temporary(target)
    place.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _to_disk(place)
    Scratch(place, target).publish()


def read_json(file: Path) -> dict[str, Any]:
    """Read what :func:`publish_json` wrote.

    Raises:
        DataError: it is not there, or no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not a readable manifest of a store ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a manifest of a store, which is a JSON object.")
    return content


@dataclass(frozen=True)
class Opened:
    """Tensors of one file, read when they are asked for."""

    file: Path
    facts: dict[str, Any]
    _handle: Any

    def keys(self) -> list[str]:
        """Names of tensors."""
        return list(self._handle.keys())

    def read(self, name: str, *place: int | slice) -> Tensor:
        """A tensor, or a piece of it: nothing else is loaded.

        Raises:
            DataError: there is no such tensor or piece.
        """
        try:
            return self._handle.get_slice(name)[place] if place else self._handle.get_tensor(name)
        except (SafetensorError, IndexError) as error:
            raise DataError(f"{self.file}: cannot read {name!r} of it ({error}). {ANEW}") from error


@contextmanager
def opened(file: Path, store: str) -> Iterator[Opened]:
    """A file of tensors that belongs to a store.

    Raises:
        DataError: it is not there, truncated, of another kind or of another store.
    """
    try:
        handle = safe_open(file, "pt")
        facts = json.loads((handle.metadata() or {}).get(_FACTS, "{}"))
    except FileNotFoundError as error:
        raise DataError(f"{file}: the file is missing. {ANEW}") from error
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{file}: truncated, or no safetensors file ({error}). {ANEW}") from error
    with handle:
        if facts.get("store") != store:
            raise DataError(f"{file}: it belongs to another store than the manifest beside it. {ANEW}")
        yield Opened(file, facts, handle)


def sha256(file: Path) -> str:
    """Hash of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_scratch(folder: Path) -> None:
    """Delete what a killed process was writing."""
    if (folder / _SCRATCH).exists():
        shutil.rmtree(folder / _SCRATCH)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second run out of a folder; the lock ends with the process, however it ends.

    Raises:
        SettingError: a run is at work there.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingError(f"{folder}: another run is writing this store; wait for it or stop it.") from error
        yield
    finally:
        os.close(handle)


def _temporary(target: Path) -> Path:
    place = target.parent / _SCRATCH
    place.mkdir(exist_ok=True)
    return place / f"{os.getpid()}-{target.name}"


def _to_disk(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
