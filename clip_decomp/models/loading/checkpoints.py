"""Files of weights, opened without executing anything in them.

Safetensors, ``torch.load(weights_only=True)``, and TorchScript archives whose program is never run
(:mod:`.programs`). Wrappers of training codes come off: dicts around the weights (``state_dict``, ``model``, ...,
nested, with an optimizer or anything else beside them), prefixes of ``DataParallel``, ``torch.compile`` and Lightning.
Layouts of old open_clip and of OpenAI become the model's own, by open_clip's own functions.

Limits: a checkpoint whose pickle needs other classes than tensors and containers (an ``argparse.Namespace``, a whole
module) is refused even if it is harmless.

Example:
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "w.pt"
    >>> torch.save({"epoch": 3, "model": {"module.visual.proj": torch.zeros(2, 2)}}, file)
    >>> list(read_state_dict(file))
    ['visual.proj']
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from torch import Tensor, nn

from ...errors import ModelError
from .programs import is_program, read_program

#: What file names of weights end in; other names are tried as well, where the file exists.
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
# Where training codes put the weights, likeliest first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "clip")
# What wrapping modules put in front of every name of theirs.
_PREFIXES = ("model.", "clip_model.", "clip.", "net.", "network.")
# Sizes and masks that OpenAI's and old open_clip's files hold among the weights.
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask", "text.attn_mask"}
_NOT_WEIGHTS |= {"text.transformer.embeddings.position_ids"}
_LISTED = 10


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Tensors of a file of weights, without the wrappers of common training codes.

    Raises:
        ModelError: the file is missing, unreadable, or would execute code.
    """
    if not file.is_file():
        raise ModelError(f"{file}: there is no such file.")
    if not file.stat().st_size:
        raise ModelError(f"{file}: not a readable checkpoint, the file is empty: copy or download it again.")
    if is_program(file):
        return read_program(file).tensors
    found = _unwrapped(_opened(file))
    if not found:
        raise ModelError(f"{file}: holds no state dict of tensors.")
    return _bare(found, file)


def _opened(file: Path) -> Any:
    from pickle import UnpicklingError

    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
            return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        asked = f" (it asks for {wanted.group(1)})" if wanted else ""
        raise ModelError(
            f"{file}: refused, because it cannot be opened without running code that it may bring along{asked}. "
            "Convert it to safetensors in a place you trust."
        ) from error
    except Exception as error:  # a damaged file can make the unpickler fail in any way
        raise ModelError(f"{file}: not a readable checkpoint ({type(error).__name__}: {error}).") from error


def _unwrapped(found: Any) -> dict[str, Tensor]:
    """The state dict in a checkpoint; empty if there is none."""
    if not isinstance(found, Mapping):
        return {}
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
        return dict(found)
    for wrapper in _WRAPPERS:
        inner = _unwrapped(found.get(wrapper))
        if inner:
            return inner
    return {}


def _bare(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """A state dict without the prefixes of wrapping modules."""
    bare: dict[str, Tensor] = {}
    for key, value in state.items():
        short = key.replace("_orig_mod.", "")
        while short.startswith("module."):
            short = short.removeprefix("module.")
        if short in bare:
            raise ModelError(f"{file}: holds two tensors that are both called {short} without their wrappers' names.")
        bare[short] = value
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in bare):
            return _bare({key.removeprefix(prefix): value for key, value in bare.items()}, file)
    return bare


def load_weights(clip: nn.Module, file: Path, resize: bool = False) -> None:
    """Copy a file's tensors into ``clip`` after checking every one of them.

    Args:
        resize: fit the positions of the patches to the model's image size, as open_clip does.

    Raises:
        ModelError: the file cannot be read; a key is missing, extra or misshapen, or a value is NaN or infinite.
    """
    copy_weights(clip, read_state_dict(file), file, resize)


def copy_weights(clip: nn.Module, state: dict[str, Tensor], file: Path, resize: bool = False) -> None:
    """As :func:`load_weights`, with the tensors at hand; ``file`` is what messages call them."""
    own = clip.state_dict()
    state = _fitted(state, clip, own)
    if resize:
        resize_pos_embed(state, clip)
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    if missing or extra:
        raise ModelError(
            f"{file} does not fit this architecture: {len(missing)} keys are missing (e.g. {missing[:_LISTED]}), "
            f"{len(extra)} are unknown (e.g. {extra[:_LISTED]}).{_hint(clip, state)}"
        )
    wrong = [key for key, value in state.items() if value.shape != own[key].shape]
    if wrong:
        listed = "; ".join(
            f"{key} has shape {list(state[key].shape)}, the model needs {list(own[key].shape)}"
            for key in wrong[:_LISTED]
        )
        more = f" (and {len(wrong) - _LISTED} more)" if len(wrong) > _LISTED else ""
        raise ModelError(f"{file}: {listed}{more}.{_hint(clip, state)}")
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{file}: {key} holds NaN or infinite values.")
        if key.endswith("running_var") and (value < 0).any():
            raise ModelError(f"{file}: {key} holds negative variances.")
    clip.load_state_dict(state)


def _fitted(state: dict[str, Tensor], clip: nn.Module, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in the model's own layout, by open_clip's rules."""
    state = {key: value for key, value in state.items() if key in own or key not in _NOT_WEIGHTS}
    state = convert_state_dict(clip, state)
    if "positional_embedding" in state and "text.positional_embedding" in own:
        state = convert_to_custom_text_state_dict(state)
    elif "text.positional_embedding" in state and "positional_embedding" in own:
        state = {key.removeprefix("text."): value for key, value in state.items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in own and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    return state


def _hint(clip: nn.Module, state: dict[str, Tensor]) -> str:
    """What a state dict that does not fit may be instead."""
    from .shapes import names_of

    if isinstance(clip.visual, nn.Module) and set(state) == set(clip.visual.state_dict()):
        return " It holds the image tower alone: load the rest first, and this into model.clip.visual."
    names = names_of(state)
    return f" Its shapes are those of {', '.join(names)}." if names else ""
