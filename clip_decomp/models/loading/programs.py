"""TorchScript archives, which is how OpenAI published CLIP, as tensors: nothing of the program in them is run.

Such an archive is a zip file. ``data.pkl`` pickles the tree of modules, ``data/N`` are the tensors' raw bytes, and
``code/`` is the program's text. The pickle is read by an unpickler to which every class is one inert class that keeps
its attributes, except for the function that says how a tensor lies in its bytes. The text is searched, never compiled:
a QuickGELU, ``x * sigmoid(1.702 x)``, is the only place where CLIP has a sigmoid.

Limits: constants that the program holds outside its modules are no weights and are left out; quantized and sparse
tensors are refused.

Example:
    >>> is_program(Path("there-is-no-such-file"))
    False
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_MOST_BYTES_OF_PICKLE = 64 << 20


@dataclass(frozen=True)
class Program:
    """What is read of an archive.

    Attributes:
        tensors: by attribute path, which is their name in a state dict.
        quick_gelu: which activation the program's text computes; None where it shows neither.
    """

    tensors: dict[str, Tensor]
    quick_gelu: bool | None


class _Inert:
    """Stands for every class and function of the pickle, and does nothing."""

    attributes: object = None

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object) -> None:
        self.attributes = state


def is_program(file: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def read_program(file: Path) -> Program:
    """The tensors of an archive, and what its text says of the activation.

    Raises:
        ModelError: the archive is damaged, or holds something else than plain tensors.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            (listing,) = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            root = listing.removesuffix("data.pkl")
            if archive.getinfo(listing).file_size > _MOST_BYTES_OF_PICKLE:
                raise ValueError(f"its listing of modules is over {_MOST_BYTES_OF_PICKLE >> 20} MiB")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise ValueError("its tensors are not little-endian")
            with archive.open(listing) as stream:
                tree = _Unpickler(stream, archive, root).load()
            tensors = _collected(tree)
            quick = _quick_gelu(archive, f"{root}code/")
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise ModelError(
            f"{file}: not a readable checkpoint: a TorchScript archive whose tensors cannot be read without running "
            f"it ({type(error).__name__}: {error})."
        ) from error
    if not tensors:
        raise ModelError(f"{file}: a TorchScript archive that holds no state dict of tensors.")
    return Program(tensors, quick)


class _Unpickler(pickle.Unpickler):
    """Builds tensors and inert objects, nothing else."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(stream)
        self._archive, self._root = archive, root
        self._bytes: dict[str, bytearray] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *rest: data
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module.startswith("torch.") and "tensor" in name:
            raise ValueError(f"it holds a tensor of a kind that is not supported, {module}.{name}")
        return _Inert

    def persistent_load(self, pid: Any) -> tuple[bytearray, torch.dtype]:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ValueError(f"it refers to {pid!r}, which is no tensor's bytes")
        name = f"{self._root}data/{key}"
        if name not in self._bytes:
            self._bytes[name] = self._read(name)
        return self._bytes[name], dtype

    def _read(self, name: str) -> bytearray:
        if self._archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, which torch never does")
        return bytearray(self._archive.read(name))


def _tensor(storage: tuple[bytearray, torch.dtype], offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    content, dtype = storage
    if prod(size) * dtype.itemsize > len(content):
        raise ValueError(f"a tensor of shape {list(size)} is larger than its {len(content)} bytes")
    if not content:
        return torch.empty(size, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).as_strided(size, stride, offset)


def _collected(tree: object) -> dict[str, Tensor]:
    """Tensors of a tree of modules by their paths."""
    found: dict[str, Tensor] = {}

    def walk(module: object, path: str, above: tuple[int, ...]) -> None:
        if not isinstance(module, _Inert) or not isinstance(module.attributes, dict) or id(module) in above:
            return
        for name, value in module.attributes.items():
            if isinstance(value, Tensor):
                found[f"{path}{name}"] = value
            else:
                walk(value, f"{path}{name}.", (*above, id(module)))

    walk(tree, "", ())
    return found


def _quick_gelu(archive: zipfile.ZipFile, folder: str) -> bool | None:
    names = [name for name in archive.namelist() if name.startswith(folder) and name.endswith(".py")]
    text = b"\n".join(archive.read(name) for name in names)
    quick, plain = b"sigmoid(" in text, b"gelu(" in text
    return None if quick == plain else quick
