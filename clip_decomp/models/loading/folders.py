"""Folders that this project writes: ``model.safetensors`` beside a ``card.json`` that says what it is.

The card describes the tiny CLIPs of this project; a model of open_clip's has open_clip's own description beside it.

Limits: the card is believed about the recipe and the numbers; the weights are compared with the card's hash.

Example:
    >>> from clip_decomp import zoo
    >>> load_folder(zoo.path("world/badnet")).card["attack"]["target"]
    'banana'
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_clip.model import get_model_preprocess_cfg
from torch import Tensor

from ...drafts import drafted
from ...errors import ModelError, SettingError
from ...model import HookedCLIP
from ...results import write_json
from ...tokenizer import BPETokenizer
from ...training.architecture import Architecture, build
from .checkpoints import load_weights, read_state_dict
from .named import CONFIG, Asked, from_folder

if TYPE_CHECKING:
    from ...attacks.triggers import Trigger

CARD, WEIGHTS, TRIGGER = "card.json", "model.safetensors", "trigger.safetensors"


def load_folder(folder: Path, name: str | None = None) -> HookedCLIP:
    """A model that this project trained or fine-tuned: ``model.safetensors`` and ``card.json``.

    Raises:
        ModelError: the card is missing or incomplete, or the weights do not fit it or are not those it was written for.
    """
    card_file = folder / CARD
    if not card_file.is_file():
        raise ModelError(f"{folder}: there is no {CARD} in it; point to a folder written by 'clip-decomp train'.")
    try:
        card = json.loads(card_file.read_text())
        if "architecture" not in card and (folder / CONFIG).is_file():
            return _described(folder, card, name)
        architecture = Architecture(**card["architecture"])
        tokenizer = BPETokenizer.from_json(json.dumps(card["tokenizer"]), architecture.context_length)
        mean, std = card["normalization"]["mean"], card["normalization"]["std"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{card_file}: not a usable card ({type(error).__name__}: {error}).") from error
    if tokenizer.vocab_size > architecture.vocab_size:
        raise ModelError(
            f"{card_file}: its tokenizer has {tokenizer.vocab_size} entries, the model only {architecture.vocab_size}."
        )
    weights = folder / WEIGHTS
    _check_hash(weights, card.get("sha256"))
    clip = build(architecture)
    load_weights(clip, weights)
    trigger = _read_trigger(card_file, card.get("attack"))
    return HookedCLIP(clip.eval(), tokenizer, mean, std, name=name or folder.name, card=card, trigger=trigger)


def _described(folder: Path, card: dict[str, Any], name: str | None) -> HookedCLIP:
    """A model of open_clip's that was fine-tuned here."""
    _check_hash(folder / WEIGHTS, card.get("sha256"))
    found = from_folder(folder, Asked(), name)
    found.card = {"open_clip": found.card["open_clip"], **card}
    found.trigger = _read_trigger(folder / CARD, card.get("attack"))
    return found


def check_storable(model: HookedCLIP) -> None:
    """Refuse a model that could not be read back from where it is stored, before hours go into it.

    Raises:
        ModelError: neither its card nor open_clip says how it is built.
    """
    if "architecture" not in model.card and "open_clip" not in model.card:
        raise ModelError(
            f"{model.name} cannot be stored, as nothing says how it is built: load it by open_clip's name or folder, "
            "or from a folder of this project."
        )


def _check_hash(file: Path, expected: str | None) -> None:
    if file.is_file() and expected not in (None, file_hash(file)):
        raise ModelError(f"{file}: the file is corrupt or was changed: its SHA-256 is not the one on the card.")


def _read_trigger(card: Path, attack: Any) -> Trigger | None:
    """The trigger that a card describes, with what it learned."""
    from ...attacks.triggers import make_trigger

    if attack is None:
        return None
    try:
        trigger, digest = make_trigger(**attack["trigger"]), attack.get("sha256")
    except (KeyError, TypeError, AttributeError, SettingError) as error:
        raise ModelError(f"{card}: its attack cannot be made ({type(error).__name__}: {error}).") from error
    if digest is None:
        return trigger
    file = card.with_name(TRIGGER)
    _check_hash(file, digest)
    return trigger.restore(read_state_dict(file))


def file_hash(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def save_folder(model: HookedCLIP, folder: Path, card: dict[str, Any], half: bool = True) -> None:
    """Write a model with its card; ``half`` stores parameters in float16, which is what ships.

    A model of open_clip's gets open_clip's description beside the card. Buffers, which are the statistics of batch
    norms, keep their precision: a variance can leave float16's range. The card gains the architecture, tokenizer and
    normalization of ``model`` if it lacks them, and the weights' hash.

    Raises:
        ModelError: nothing says how it is built.
    """
    if "architecture" not in card:
        check_storable(model)
    folder.mkdir(parents=True, exist_ok=True)
    halved = {name for name, _ in model.clip.named_parameters()} if half else set()
    state = {key: value.half() if key in halved else value for key, value in model.clip.state_dict().items()}
    inherited = {key: model.card[key] for key in ("architecture", "tokenizer", "normalization") if key in model.card}
    full = {**inherited, **card, "sha256": _write(folder / WEIGHTS, state)}
    described = full.pop("open_clip", None) or model.card.get("open_clip")
    if "architecture" not in full and described is not None:
        pixels = {**get_model_preprocess_cfg(model.clip), "mean": model.mean, "std": model.std}
        write_json(folder / CONFIG, {"model_cfg": described, "preprocess_cfg": pixels})
    learned = model.trigger.tensors() if model.trigger is not None else {}
    if learned:
        full["attack"] = {**full["attack"], "sha256": _write(folder / TRIGGER, learned)}
    else:
        (folder / TRIGGER).unlink(missing_ok=True)  # of another model, stored here before
    with drafted(folder / CARD) as draft:
        draft.write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n")


def _write(file: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors; returns the file's SHA-256."""
    from safetensors.torch import save

    data = save({key: value.contiguous() for key, value in tensors.items()})
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
