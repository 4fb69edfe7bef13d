"""What tells one image tower from another.

Example:
    >>> import clip_decomp
    >>> fingerprint(clip_decomp.load("world/clean")) == fingerprint(clip_decomp.load("world/badnet"))
    False
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ..model import HookedCLIP


def fingerprint(model: HookedCLIP) -> str:
    """SHA-256 of the image tower's weights in half precision, which is what models are stored in, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.clip.visual.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
