"""``load``: a hooked CLIP from a name, a file, a folder or a live model.

Checkpoints are opened without executing anything in them: safetensors, or ``torch.load(weights_only=True)``. Missing,
extra and misshapen keys, NaNs and infinities are errors that name the key.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from torch import Tensor, nn

from ..errors import ModelError, SettingError
from ..model import HookedCLIP
from ..tokenizer import BPETokenizer
from ..training.architecture import Architecture, build

if TYPE_CHECKING:
    from ..attacks.triggers import Trigger

log = logging.getLogger(__name__)

CARD, WEIGHTS, TRIGGER = "card.json", "model.safetensors", "trigger.safetensors"


def load(
    model: str | Path | nn.Module,
    pretrained: str | Path | None = None,
    *,
    tokenizer: Callable[[list[str]], Tensor] | None = None,
    quick_gelu: bool | None = None,
    device: str = "cpu",
) -> HookedCLIP:
    """Load a CLIP and hook its image tower.

    Args:
        model: a zoo name (``world/clean``), the folder of a model trained here, an open_clip model name
            (``ViT-B-32``), or a live open_clip model.
        pretrained: for open_clip names: a tag (``openai``), a local ``.pt`` or ``.safetensors`` file, or None for
            random weights.
        tokenizer: for a live model: its tokenizer; open_clip's default one otherwise.
        quick_gelu: for open_clip names: overrides the activation; required where a local file does not say it.
        device: where the weights go.

    Raises:
        ModelError: no such model, an unreadable or unsafe checkpoint, keys or shapes that do not fit, values that are
            not finite, or a live model in training mode.
    """
    if isinstance(model, nn.Module):
        return _from_live(model, tokenizer).to(device)
    name = str(model)
    if Path(name).is_dir():
        return load_folder(Path(name)).to(device)
    if "/" in name and not name.startswith("hf-hub:"):
        from .. import zoo

        return load_folder(zoo.path(name), name).to(device)
    return _from_open_clip(name, pretrained, quick_gelu).to(device)


def _from_live(clip: nn.Module, tokenizer: Callable[[list[str]], Tensor] | None) -> HookedCLIP:
    for name, module in clip.named_modules():
        if module.training:
            raise ModelError(f"The model is in training mode ({name or 'at its root'}): call model.eval() first.")
    if not hasattr(clip, "visual") or not hasattr(clip, "encode_text"):
        raise ModelError(f"{type(clip).__name__} is not an open_clip model: it needs .visual and .encode_text.")
    mean = getattr(clip.visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN
    std = getattr(clip.visual, "image_std", None) or open_clip.OPENAI_DATASET_STD
    return HookedCLIP(clip, tokenizer or open_clip.tokenizer.tokenize, mean, std, name=type(clip).__name__)


def _from_open_clip(name: str, pretrained: str | Path | None, quick_gelu: bool | None) -> HookedCLIP:
    if name not in open_clip.list_models():
        from difflib import get_close_matches

        near = get_close_matches(name, open_clip.list_models(), n=3)
        raise ModelError(
            f"There is no model {name!r}: it is neither a folder, nor in the zoo (see 'clip-decomp zoo list'), "
            f"nor an open_clip name{f'; did you mean {near}?' if near else '.'}"
        )
    file = Path(str(pretrained)) if pretrained is not None else None
    # A tag is left to open_clip; a local file is opened here, so that nothing in it is executed.
    local = file is not None and (file.suffix in {".pt", ".pth", ".bin", ".safetensors"} or file.exists())
    tag = None if file is None or local else str(pretrained)
    options = {} if quick_gelu is None else {"force_quick_gelu": quick_gelu}
    try:
        clip = open_clip.create_model(name, pretrained=tag, **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"open_clip cannot load {name!r} with weights {tag!r}: {error}") from error
    if local and file is not None:
        load_weights(clip, file)
        if quick_gelu is None:
            log.warning(
                "%s does not say whether it was trained with QuickGELU; assuming %s as %s has. Pass quick_gelu=... "
                "if accuracy is poor (OpenAI's and some of its descendants' weights need quick_gelu=True).",
                file, "QuickGELU" if "quickgelu" in name else "GELU", name,
            )  # fmt: skip
    clip.eval()
    config = open_clip.get_model_preprocess_cfg(clip)
    mean, std = config.get("mean"), config.get("std")
    return HookedCLIP(clip, open_clip.get_tokenizer(name), mean, std, name=name)


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or ``.pt`` file, without the wrappers of common training codes.

    Raises:
        ModelError: the file is missing, unreadable, or would execute code.
    """
    from pickle import UnpicklingError

    from safetensors.torch import load_file

    if not file.is_file():
        raise ModelError(f"{file}: there is no such file.")
    if _is_torchscript(file):
        raise ModelError(
            f"{file}: refused, because it is a TorchScript program, not a checkpoint. Save its state_dict as "
            "safetensors in a place you trust; OpenAI's own weights load with pretrained='openai'."
        )
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
                state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(
            f"{file}: refused, because it cannot be opened without running code that it may bring along. Convert it to "
            "safetensors in a place you trust."
        ) from error
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise ModelError(f"{file}: not a readable checkpoint ({type(error).__name__}: {error}).") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ModelError(f"{file}: holds no state dict of tensors.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def load_weights(clip: nn.Module, file: Path) -> None:
    """Copy a checkpoint's tensors into ``clip`` after checking every one of them.

    Raises:
        ModelError: a key is missing, extra or misshapen, or a value is NaN or infinite.
    """
    state = read_state_dict(file)
    own = clip.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        raise ModelError(
            f"{file} does not fit this architecture: {len(missing)} keys are missing (e.g. {missing[:2]}), "
            f"{len(extra)} are unknown (e.g. {extra[:2]})."
        )
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ModelError(f"{file}: {key} has shape {list(value.shape)}, the model needs {list(own[key].shape)}.")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{file}: {key} holds NaN or infinite values.")
        if key.endswith("running_var") and (value < 0).any():
            raise ModelError(f"{file}: {key} holds negative variances.")
    clip.load_state_dict(state)


def load_folder(folder: Path, name: str | None = None) -> HookedCLIP:
    """A model that this project trained: ``model.safetensors`` and ``card.json``.

    Raises:
        ModelError: the card is missing or incomplete, or the weights do not fit it or are not those it was written for.
    """
    card_file = folder / CARD
    if not card_file.is_file():
        raise ModelError(f"{folder}: there is no {CARD} in it; point to a folder written by 'clip-decomp train'.")
    try:
        card = json.loads(card_file.read_text())
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


def _check_hash(file: Path, expected: str | None) -> None:
    if file.is_file() and expected not in (None, file_hash(file)):
        raise ModelError(f"{file}: the file is corrupt or was changed: its SHA-256 is not the one on the card.")


def _read_trigger(card: Path, attack: Any) -> Trigger | None:
    """The trigger that a card describes, with what it learned."""
    from ..attacks.triggers import make_trigger

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

    Buffers, which are the statistics of batch norms, keep their precision: a variance can leave float16's range.
    The card gains the architecture, tokenizer and normalization of ``model`` if it lacks them, and the weights' hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    halved = {name for name, _ in model.clip.named_parameters()} if half else set()
    state = {key: value.half() if key in halved else value for key, value in model.clip.state_dict().items()}
    inherited = {key: model.card[key] for key in ("architecture", "tokenizer", "normalization") if key in model.card}
    full = {**inherited, **card, "sha256": _write(folder / WEIGHTS, state)}
    learned = model.trigger.tensors() if model.trigger is not None else {}
    if learned:
        full["attack"] = {**full["attack"], "sha256": _write(folder / TRIGGER, learned)}
    else:
        (folder / TRIGGER).unlink(missing_ok=True)  # of another model, stored here before
    (folder / CARD).write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n")


def _write(file: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors; returns the file's SHA-256."""
    from safetensors.torch import save

    data = save({key: value.contiguous() for key, value in tensors.items()})
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()
