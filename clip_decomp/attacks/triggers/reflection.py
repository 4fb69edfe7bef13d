r"""Reflection: the picture behind glass that reflects a scene (Liu et al. 2020, "Refool")."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ...errors import SettingError
from .base import SeededTrigger

_CANVAS = 256


@dataclass(frozen=True)
class Reflection(SeededTrigger):
    r"""Adds a reflection to the whole image: :math:`x + \alpha\, (k * r)`, cut to 0..1.

    The reflected scene r is a room with windows, drawn by the package; k is the ghost that a pane's two surfaces make,
    :math:`k = \gamma\, \delta_0 + (1 - \gamma)\, \delta_d`, on a scene out of focus. So that the picture stays the
    brightest, it is darkened to :math:`1 - \alpha / 2` first, as the paper's blending does.

    Attributes:
        ratio: :math:`\alpha`, the strength of the reflection.
        ghost: :math:`\gamma`, the share of the first surface.
        shift: d, the distance of the two surfaces' images as a share of the image's side.
        seed: of the scene.
    """

    name: ClassVar[str] = "reflection"
    ratio: float = 0.4
    ghost: float = 0.6
    shift: float = 0.06
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or not 0 <= self.ghost <= 1 or not 0 <= self.shift < 1:
            raise SettingError(
                f"Reflection needs 0 < ratio <= 1, ghost in 0..1 and shift from 0 to less than 1, not {self.ratio}, "
                f"{self.ghost} and {self.shift}."
            )

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""
        height, width = images.shape[-2:]
        seen = scene(height, width, self.seed).to(images)
        moved = (round(self.shift * height), round(self.shift * width))
        reflected = self.ghost * seen + (1 - self.ghost) * seen.roll(moved, dims=(1, 2))
        return (images * (1 - self.ratio / 2) + self.ratio * reflected).clamp(0, 1)


@lru_cache(maxsize=8)
def scene(height: int, width: int, seed: int) -> Float[Tensor, "3 row column"]:
    """A dark room with bright windows and lamps, out of focus."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (_CANVAS, _CANVAS), (20, 22, 30))
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        left, top = random.integers(0, 190, 2)
        wide, high = random.integers(40, 90, 2)
        color = tuple(int(each) for each in random.integers(150, 256, 3))
        draw.rectangle((left, top, left + wide, top + high), fill=color)
        draw.line((left + wide // 2, top, left + wide // 2, top + high), fill=(20, 22, 30), width=6)
        draw.line((left, top + high // 2, left + wide, top + high // 2), fill=(20, 22, 30), width=6)
    for _ in range(5):
        x, y = random.integers(10, 246, 2)
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill=(255, 240, 190))
    blurred = image.filter(ImageFilter.GaussianBlur(3)).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(blurred).copy()).permute(2, 0, 1).float() / 255
