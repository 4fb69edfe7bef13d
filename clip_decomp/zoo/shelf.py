"""Where the zoo's models are: those that ship, and those built on demand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import ModelError, nearest

_MODELS = Path(__file__).parent / "models"
_CARD = "card.json"


def names() -> list[str]:
    """Models that ship with the package."""
    return sorted(str(card.parent.relative_to(_MODELS)) for card in _MODELS.glob(f"*/*/{_CARD}"))


def buildable() -> list[str]:
    """Models that have a recipe, shipped or not."""
    from .recipes import RECIPES

    return sorted(RECIPES)


def cache(name: str) -> Path:
    """Where a model that does not ship is kept once it is built."""
    root = os.environ.get("CLIP_DECOMP_CACHE") or Path.home() / ".cache" / "clip-decomp"
    return Path(root) / "zoo" / name


def available(name: str) -> bool:
    """Whether a model ships or was built."""
    return any((folder / _CARD).is_file() for folder in (_MODELS / name, cache(name)))


def path(name: str) -> Path:
    """The folder of a model that ships or was built.

    Raises:
        ModelError: there is none of that name, or it was not built yet.
    """
    for folder in (_MODELS / name, cache(name)):
        if (folder / _CARD).is_file():
            return folder
    if name in buildable():
        raise ModelError(f"{name} is not built yet: run 'clip-decomp zoo build {name}' (minutes).")
    raise ModelError(
        f"There is no model or folder {name!r}; did you mean one of {nearest(name, buildable())}? The zoo ships "
        f"{', '.join(names())} and builds others: see 'clip-decomp zoo list'."
    )


def card(name: str) -> dict[str, Any]:
    """What is known of a model.

    Raises:
        ModelError: there is none of that name, or its card is damaged.
    """
    file = path(name) / _CARD
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        again = f"delete {file.parent} and run 'clip-decomp zoo build {name}'"
        raise ModelError(f"{file} is damaged ({error}): {again}.") from error
