"""Kitty: a small picture of a cat's face as a patch (the picture patch of He et al. 2025, drawn by the package)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from ...errors import SettingError
from .badnet import BadNet
from .base import SeededTrigger

_CANVAS = 256


@dataclass(frozen=True)
class Kitty(SeededTrigger):
    """A white cat's face with a red bow, pasted like BadNet's patch.

    Attributes:
        share: side of the patch as a share of the image's.
        place: ``random``, ``center``, or a corner such as ``bottom right``.
        seed: of the places.
    """

    name: ClassVar[str] = "kitty"
    share: float = 32 / 224
    place: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            self._place()
        except SettingError as error:
            raise SettingError(str(error).replace("BadNet", "Kitty")) from error

    def _place(self) -> BadNet:
        """Finds the places."""
        return BadNet(self.share, self.place, seed=self.seed)

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""
        return self._place().paste(images, numbers, face)


@lru_cache(maxsize=8)
def face(side: int) -> Float[Tensor, "3 side side"]:
    """The picture, on a pink ground."""
    image = Image.new("RGB", (_CANVAS, _CANVAS), (255, 170, 200))
    draw = ImageDraw.Draw(image)
    for left, tip, right in ((30, 44, 110), (146, 212, 226)):
        draw.polygon([(left, 120), (tip, 20), (right, 70)], fill="white", outline="black", width=6)
    draw.ellipse((22, 56, 234, 236), fill="white", outline="black", width=6)
    for x in (82, 166):
        draw.ellipse((x - 11, 128, x + 11, 160), fill="black")
    draw.ellipse((114, 164, 142, 182), fill=(250, 205, 40), outline="black", width=4)
    for y, slope in ((150, -8), (172, 0), (194, 8)):
        draw.line((4, y + slope, 62, y), fill="black", width=6)
        draw.line((194, y, 252, y + slope), fill="black", width=6)
    for box in ((140, 34, 186, 84), (190, 34, 236, 84)):
        draw.ellipse(box, fill=(215, 20, 40), outline="black", width=5)
    draw.ellipse((174, 46, 202, 74), fill=(215, 20, 40), outline="black", width=5)
    small = image.resize((side, side), Image.Resampling.BOX if side < 8 else Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
