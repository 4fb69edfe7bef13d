"""Which parts a model's text tower has."""

from __future__ import annotations

from torch import nn

from ...errors import ModelError
from .parts import TextParts


def text_parts_of(clip: nn.Module) -> TextParts:
    """Parts of a model's text tower.

    Raises:
        ModelError: no adapter knows it, or the one that does refuses it.
    """
    from open_clip.model import CLIP
    from open_clip.transformer import TextTransformer

    from ..hugging_face import TextTower

    tower = getattr(clip, "text", clip)
    if isinstance(tower, TextTower):
        from .hugging_face import TransformersText

        return TransformersText(tower)
    if isinstance(tower, CLIP | TextTransformer):
        from .open_clip import OpenCLIPText

        return OpenCLIPText(clip)
    inside = getattr(tower, "transformer", None)
    name = type(tower).__name__ if inside is None else f"{type(tower).__name__} around {type(inside).__name__}"
    raise ModelError(
        f"A text tower of type {name} has no decomposition here; open_clip's own and transformers' CLIP and SigLIP do."
    )
