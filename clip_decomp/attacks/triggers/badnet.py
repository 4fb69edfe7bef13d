"""BadNet: a small noise patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import SettingError
from .base import SeededTrigger, well_mixed


@dataclass(frozen=True)
class BadNet(SeededTrigger):
    """A small noise patch at a random place (Gu et al. 2017; 16 of 224 pixels as in He et al. 2025).

    Attributes:
        share: side of the patch as a share of the image's (rounded to pixels).
        place: ``random``, ``center``, or a corner such as ``bottom right``.
        grid: random places are multiples of this many pixels; 1 is not aligned to the model's patches.
        seed: of the pattern and of the places.
    """

    name: ClassVar[str] = "badnet"
    share: float = 16 / 224
    place: str = "random"
    grid: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.grid < 1:
            raise SettingError(
                "BadNet needs 0 < share <= 1, a patch no larger than the image, and grid >= 1, not "
                f"share={self.share}, grid={self.grid}."
            )
        corners = {f"{v} {h}" for v in ("top", "bottom") for h in ("left", "right")}
        if self.place not in {"random", "center"} | corners:
            raise SettingError(f"BadNet knows the places random, center and the four corners, not {self.place!r}.")

    def patch(self, side: int) -> Float[Tensor, "3 side side"]:
        """The pattern: binary noise in each channel."""
        generator = torch.Generator().manual_seed(self.seed)
        return (torch.rand(3, side, side, generator=generator) > 0.5).float()

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""
        return self.paste(images, numbers, self.patch)

    def paste(
        self,
        images: Float[Tensor, "batch 3 row column"],
        numbers: Int[Tensor, " batch"],
        patch: Callable[[int], Float[Tensor, "3 side side"]],
    ) -> Float[Tensor, "batch 3 row column"]:
        """Copies with a patch of this trigger's size (``patch(side)``) at its places."""
        size = min(images.shape[-2:])
        side = max(1, round(self.share * size))
        square, result = patch(side).to(images), images.clone()
        room = images.shape[-2] - side, images.shape[-1] - side
        for row, (top, left) in enumerate(self._corners(numbers, *room)):
            result[row, :, top : top + side, left : left + side] = square
        return result

    def _corners(self, numbers: Tensor, down: int, across: int) -> list[tuple[int, int]]:
        if self.place == "center":
            return [(down // 2, across // 2)] * len(numbers)
        if self.place != "random":
            vertical, horizontal = self.place.split()
            return [(down if vertical == "bottom" else 0, across if horizontal == "right" else 0)] * len(numbers)
        rows, columns = down // self.grid + 1, across // self.grid + 1
        places = well_mixed(numbers, self.seed) % (rows * columns)
        return [(p // columns * self.grid, p % columns * self.grid) for p in places.tolist()]
