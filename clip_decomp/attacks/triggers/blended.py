"""Blended: a noise picture mixed into the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import SettingError
from .base import SeededTrigger


@dataclass(frozen=True)
class Blended(SeededTrigger):
    """A noise picture mixed into the whole image (Chen et al. 2017; ratio 0.2).

    The noise is uniform in every pixel and channel at the image's own resolution.
    """

    name: ClassVar[str] = "blended"
    ratio: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise SettingError(f"Blended needs 0 < ratio <= 1, not {self.ratio}.")

    def pattern(self, height: int, width: int) -> Float[Tensor, "3 row column"]:
        """The picture that is mixed in."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(3, height, width, generator=generator)

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""
        return torch.lerp(images, self.pattern(*images.shape[-2:]).to(images).expand_as(images), self.ratio)
