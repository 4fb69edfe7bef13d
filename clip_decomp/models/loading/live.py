"""Models that are already in memory."""

from __future__ import annotations

from collections.abc import Callable

import open_clip
from torch import Tensor, nn

from ...errors import ModelError
from ...model import HookedCLIP
from .named import Asked
from .stated import Normalization, agree


def from_live(clip: nn.Module, tokenizer: Callable[[list[str]], Tensor] | None, asked: Asked) -> HookedCLIP:
    """Hook an open_clip model as it is.

    Raises:
        ModelError: it is in training mode, no CLIP, or contradicts what is asked for.
    """
    check_evaluating(clip)
    if not hasattr(clip, "visual") or not hasattr(clip, "encode_text"):
        raise ModelError(
            f"{type(clip).__name__} is not an open_clip model: it needs .visual and .encode_text. Of transformers, "
            "CLIPModel and SiglipModel are known."
        )
    if asked.quick_gelu is not None or asked.image_size is not None:
        raise ModelError(
            "A live model has its activation and image size already: leave quick_gelu= and image_size= out."
        )
    mean, std = (getattr(clip.visual, f"image_{each}", None) for each in ("mean", "std"))
    if mean and std:
        pixels = Normalization(mean, std)
        agree(pixels, asked.mean, asked.std, type(clip).__name__)
    else:
        pixels = Normalization.of({"mean": asked.mean or mean, "std": asked.std or std})
    return HookedCLIP(
        clip, tokenizer or open_clip.tokenizer.tokenize, pixels.mean, pixels.std, name=type(clip).__name__
    )


def check_evaluating(model: nn.Module) -> None:
    """Refuse a model of which any part is in training mode, with a ModelError."""
    for name, module in model.named_modules():
        if module.training:
            raise ModelError(f"The model is in training mode ({name or 'at its root'}): call model.eval() first.")
