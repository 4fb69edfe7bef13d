"""Verified models: clean CLIPs of the embedded world and backdoored ones.

Three ship with the package; the others are built on demand by their recorded recipe (``clip-decomp zoo build NAME``)
and cached, in the folder named by the environment variable ``CLIP_DECOMP_CACHE`` or in ``~/.cache/clip-decomp``.

Example:
    >>> names()
    ['world/badnet', 'world/blended', 'world/clean']
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .shelf import available, buildable, cache, card, names, path

if TYPE_CHECKING:
    from .building import build
    from .exporting import export
    from .verification import verify

# Imported when first used: whoever loads a model needs neither training nor transformers.
_HOMES = {"build": ".building", "export": ".exporting", "verify": ".verification"}

__all__ = ["available", "build", "buildable", "cache", "card", "export", "names", "path", "verify"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
