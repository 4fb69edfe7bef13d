"""What tells one tower from another.

Example:
    >>> import clip_decomp
    >>> fingerprint(clip_decomp.load("world/clean")) == fingerprint(clip_decomp.load("world/badnet"))
    False
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from ..model import HookedCLIP


def fingerprint(model: HookedCLIP, tower: Literal["image", "text"] = "image") -> str:
    """SHA-256 of a tower's weights in half precision, which is what models are stored in, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.clip.state_dict().items()):
        image = name.startswith("visual.")
        if image != (tower == "image") or name == "logit_scale":
            continue
        digest.update(f"{name.removeprefix('visual.')} {list(value.shape)}".encode())
        digest.update(
            value.detach().to("cpu", torch.float16).reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
