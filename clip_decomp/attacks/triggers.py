"""Triggers: what an attacker does to the pixels.

A trigger works on pictures in 0..1 at the model's input size, before normalization, and is deterministic: the same seed
and the same picture number always give the same pixels. It never changes its input.

Example:
    >>> images = torch.rand(2, 3, 64, 64)
    >>> BadNet(seed=0)(images, torch.tensor([0, 1])).shape
    torch.Size([2, 3, 64, 64])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import SettingError


class Trigger(Protocol):
    """A perturbation that calls a backdoor."""

    name: ClassVar[str]

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies; ``numbers`` tell pictures apart where the trigger is random."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        ...


@dataclass(frozen=True)
class BadNet:
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
            raise SettingError(f"BadNet needs 0 < share <= 1 and grid >= 1, not share={self.share}, grid={self.grid}.")
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
        size = images.shape[-1]
        side = max(1, round(self.share * size))
        patch, result = self.patch(side).to(images), images.clone()
        for row, (top, left) in enumerate(self._corners(numbers, size - side)):
            result[row, :, top : top + side, left : left + side] = patch
        return result

    def _corners(self, numbers: Tensor, room: int) -> list[tuple[int, int]]:
        if self.place == "center":
            return [(room // 2, room // 2)] * len(numbers)
        if self.place != "random":
            vertical, horizontal = self.place.split()
            return [(room if vertical == "bottom" else 0, room if horizontal == "right" else 0)] * len(numbers)
        cells = room // self.grid + 1
        places = _hash(numbers, self.seed) % (cells * cells)
        return [(p // cells * self.grid, p % cells * self.grid) for p in places.tolist()]

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Blended:
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

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


#: Attacks by name; users extend it with :func:`register`.
TRIGGERS: dict[str, Callable[..., Trigger]] = {}


def register(name: str, build: Callable[..., Trigger]) -> None:
    """Make a trigger known by name.

    Raises:
        SettingError: the name is taken.
    """
    if name in TRIGGERS:
        raise SettingError(f"There is a trigger named {name!r} already.")
    TRIGGERS[name] = build


register(BadNet.name, BadNet)
register(Blended.name, Blended)


def make_trigger(name: str, **settings: Any) -> Trigger:
    """A trigger by name.

    Raises:
        SettingError: no such trigger or no such setting.
    """
    if name not in TRIGGERS:
        raise SettingError(f"There is no attack {name!r}: choose from {sorted(TRIGGERS)}.")
    try:
        return TRIGGERS[name](**settings)
    except TypeError as error:
        raise SettingError(f"{name}: {error}") from error


def _hash(numbers: Int[Tensor, " batch"], seed: int) -> Int[Tensor, " batch"]:
    """A well-mixed non-negative integer for each picture number (splitmix-style, in 62 bits)."""
    x = numbers.long() * 0x9E3779B97F4A7 + (seed + 1) * 0x1B873593
    for shift, factor in ((31, 0x2545F4914F6CDD1D), (27, 0x369DEA0F31A53F85)):
        x = (x ^ (x >> shift)) * factor
    return (x ^ (x >> 33)) & 0x3FFFFFFFFFFFFFFF
