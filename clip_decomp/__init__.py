"""clip-decomp: read a CLIP as a sum of its parts, show which of them a backdoor has infected, and take it out.

Glossary, used in every shape: ``batch`` and ``image`` (a batch, a whole data set), ``token`` (class token first, then
patches, then prompts), ``layer``, ``head``, ``d_head``, ``d_model`` (tower width), ``d_embed`` (joint space), ``text``,
``cls`` (classes), ``row`` and ``column`` (of pixels). Layers and heads count from zero: ``L11H3``.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> model
    HookedCLIP('world/clean', 8 layers of 12 heads, d_embed=128)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .ablation import mean_ablation
    from .data import open_data
    from .evaluation import evaluate
    from .methods.mmd import mmd
    from .methods.textspan import textspan
    from .model import HookedCLIP
    from .models.loading import load
    from .store import open_store

# Imported when first used: the command line's --help must not wait for torch.
_HOMES = {
    "HookedCLIP": ".model",
    "evaluate": ".evaluation",
    "load": ".models.loading",
    "mean_ablation": ".ablation",
    "mmd": ".methods.mmd",
    "open_data": ".data",
    "open_store": ".store",
    "textspan": ".methods.textspan",
}

__all__ = [
    "HookedCLIP",
    "__version__",
    "evaluate",
    "load",
    "mean_ablation",
    "mmd",
    "open_data",
    "open_store",
    "textspan",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
