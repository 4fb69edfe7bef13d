"""Guards on disk: clean activity as safetensors, settings as JSON, and the hash of the model that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.results import write_json

from .deviation import Deviation

_WEIGHTS, _CARD = "guard.safetensors", "guard.json"
#: Of the score that thresholds were set for: 1 was the deviation of all parts together.
_SCORE = 2


def write(
    folder: Path, model: HookedCLIP, deviation: Deviation, reference: Float[Tensor, " image"], settings: dict[str, Any]
) -> None:
    """Write clean activity, calibration scores and settings."""
    tensors = {"reference": reference.cpu().contiguous(), **deviation.tensors()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / _WEIGHTS)
    card = {"settings": settings, "parts": deviation.parts, "score": _SCORE, "calibration": len(reference)}
    write_json(folder / _CARD, {**card, "base": model.name, "base_sha256": fingerprint(model)})


def read(folder: Path, model: HookedCLIP) -> tuple[Deviation, Float[Tensor, " image"], dict[str, Any]]:
    """Clean activity, calibration scores and settings.

    Raises:
        ModelError: not such a folder, damaged files, or the guard of another image tower.
    """
    try:
        card = json.loads((folder / _CARD).read_text())
        tensors = load_file(folder / _WEIGHTS, device=str(model.device))
        base, settings = card["base_sha256"], dict(card["settings"])
        deviation, reference = Deviation.restore(tensors, card["parts"]), tensors["reference"]
    except Exception as error:  # whatever a damaged file raises
        raise ModelError(f"{folder} holds no guard ({type(error).__name__}: {error}).") from error
    if card.get("score") != _SCORE:
        raise ModelError(f"{folder} was calibrated for another score than this version's: calibrate it again.")
    if base != fingerprint(model):
        raise ModelError(f"This guard was calibrated on another image tower ({card['base']}) than {model.name}'s.")
    shape = (model.visual.n_layers, model.visual.n_heads)
    if deviation.heads.center.shape != shape or not all(each.isfinite().all() for each in tensors.values()):
        raise ModelError(f"{folder}: its values are not finite, or do not fit {shape[0]} layers of {shape[1]} heads.")
    return deviation, reference, settings
