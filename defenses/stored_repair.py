"""Fitted repairs on disk: tensors as safetensors, settings as JSON, and the hash of the model that they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor

from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.results import write_json

WEIGHTS, CARD = "repair.safetensors", "repair.json"
Made = TypeVar("Made")


def write_repair(
    folder: Path, model: HookedCLIP, effect: str, tensors: dict[str, Tensor], card: dict[str, Any]
) -> None:
    """Write what was fitted, and what is known of it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, folder / WEIGHTS)
    write_json(folder / CARD, {"effect": effect, **card, "base": model.name, "base_sha256": fingerprint(model)})


def effect_of(folder: Path) -> str:
    """Which repair a folder holds: ``direct`` or ``total``.

    Raises:
        ModelError: it holds none.
    """
    try:
        effect = json.loads((folder / CARD).read_text())["effect"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no Decomp-Rep ({type(error).__name__}: {error}).") from error
    if effect not in ("direct", "total"):
        raise ModelError(f"{folder} holds a Decomp-Rep of an unknown effect, {effect!r}.")
    return effect


def fitting(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """One of the tensors, if it is of this shape.

    Raises:
        ModelError: it is not.
    """
    if tuple(tensors[name].shape) != shape:
        raise ModelError(f"{name} must be {list(shape)}, and is {list(tensors[name].shape)}")
    return tensors[name]


def read_repair(
    folder: Path, model: HookedCLIP, effect: str, make: Callable[[dict[str, Tensor], dict[str, Any]], Made]
) -> Made:
    """What was fitted, made from its tensors and its card.

    Raises:
        ModelError: not such a folder, damaged files, or a repair of another image tower.
    """
    if effect_of(folder) != effect:
        raise ModelError(f"{folder} holds a Decomp-Rep whose effect is {effect_of(folder)}, not {effect}.")
    try:
        card = json.loads((folder / CARD).read_text())
        tensors, base = load_file(folder / WEIGHTS, device=str(model.device)), card["base_sha256"]
    except Exception as error:  # whatever a damaged file raises
        raise ModelError(f"{folder} holds no Decomp-Rep ({type(error).__name__}: {error}).") from error
    if base != fingerprint(model):
        raise ModelError(f"This Decomp-Rep was fitted to another image tower ({card['base']}) than {model.name}'s.")
    if not all(each.isfinite().all() for each in tensors.values()):
        raise ModelError(f"{folder}: its values are not finite.")
    try:
        return make(tensors, card)
    except Exception as error:
        raise ModelError(f"{folder} holds no Decomp-Rep ({type(error).__name__}: {error}).") from error
