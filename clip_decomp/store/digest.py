"""What tells one data set from another, without reading all of it.

Hashed are labels, places, class names, and of the pictures: every pixel of those in memory; of encoded ones their sizes
in bytes and the pixels of a sample. A trigger counts with its settings and whatever it has learned.

Limits: of pictures in files, a change that keeps the file's size and misses the sample is not noticed.

Example:
    >>> from clip_decomp import open_data
    >>> first, second = (open_data("world", 64, seed, test=8).test for seed in (0, 1))
    >>> data_digest(first) == data_digest(first), data_digest(first) == data_digest(second)
    (True, False)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from ..attacks.triggers import Trigger
from ..data.files import EncodedSource
from ..data.sets import ImageSet, TensorSource
from ..errors import DataError

_SAMPLE = 64


def data_digest(data: ImageSet, trigger: Trigger | None = None) -> str:
    """SHA-256 of a data set, under a trigger if one is given."""
    digest = hashlib.sha256()
    own = data.places
    digest.update(json.dumps(data.class_names).encode())
    digest.update(own.long().numpy().tobytes() + data.own_labels.long().numpy().tobytes())
    if isinstance(data.source, EncodedSource):
        for index in own.tolist():
            digest.update(f"{_size(data.source.items[index])} ".encode())
    whole = isinstance(data.source, TensorSource)
    for index in own.tolist() if whole else own[_spread(len(own))].tolist():
        try:
            pixels = data.source.read(index)
            digest.update(f"{list(pixels.shape)}".encode() + pixels.contiguous().numpy().tobytes())
        except DataError:
            digest.update(b"unreadable")
    if trigger is not None:
        digest.update(json.dumps(trigger.settings(), sort_keys=True).encode())
        for name, value in sorted(trigger.tensors().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _spread(count: int) -> torch.Tensor:
    return torch.linspace(0, count - 1, min(_SAMPLE, count)).long()


def _size(item: bytes | str) -> int:
    if isinstance(item, bytes):
        return len(item)
    try:
        return Path(item).stat().st_size
    except OSError:
        return -1
