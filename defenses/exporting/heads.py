"""Classes at the end of an image tower: logits are linear in unit features, wherever the classes came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clip_decomp.errors import SettingError
from clip_decomp.results import write_json
from clip_decomp.zeroshot import class_vectors

from ..cbpt import CBPT
from ..linear_probe import LinearProbe
from .graph import Defended, base_of

WEIGHTS, CARD = "classifier.safetensors", "classifier.json"


@dataclass(frozen=True)
class Head:
    """Logits are ``unit features @ weight.T + bias``.

    Attributes:
        vectors: unit text vectors of the classes, of which the weight is the scaled copy; None for a probe.
    """

    class_names: tuple[str, ...]
    weight: Float[Tensor, "cls d_embed"]
    bias: Float[Tensor, " cls"]
    vectors: Float[Tensor, "cls d_embed"] | None = None

    def logits(self, features: Float[Tensor, "batch d_embed"]) -> Float[Tensor, "batch cls"]:
        """Logits of representations."""
        return F.linear(F.normalize(features, dim=-1), self.weight, self.bias)

    def write(self, folder: Path) -> None:
        """Write ``classifier.safetensors`` and ``classifier.json``."""
        from safetensors.torch import save_file

        tensors = {"weight": self.weight, "bias": self.bias}
        if self.vectors is not None:
            tensors["class_vectors"] = self.vectors
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, folder / WEIGHTS)
        card: dict[str, Any] = {"class_names": self.class_names}
        card["logits"] = "image_features / norm(image_features) @ weight.T + bias"
        write_json(folder / CARD, card)


def head_of(defended: Defended, class_names: Sequence[str] | None, templates: Sequence[str]) -> Head | None:
    """The classes that a defense was fitted to, or zero-shot ones of the model; None if there are neither.

    Raises:
        SettingError: zero-shot classes for a defense that has classes of its own.
    """
    if isinstance(defended, CBPT | LinearProbe):
        if class_names:
            kind = type(defended).__name__
            raise SettingError(f"{kind} has its own {len(defended.class_names_)} classes: leave others out.")
        if isinstance(defended, LinearProbe):
            return Head(defended.class_names_, defended.weight_, defended.bias_)
        return _scaled(defended, defended.class_names_, defended.class_vectors())
    if not class_names:
        return None
    base = base_of(defended)
    return _scaled(defended, tuple(class_names), class_vectors(base, class_names, templates))


def _scaled(defended: Defended, names: tuple[str, ...], vectors: Tensor) -> Head:
    weight = base_of(defended).logit_scale.detach() * vectors
    return Head(names, weight, weight.new_zeros(len(names)), vectors)
