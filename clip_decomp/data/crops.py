"""Random crops drawn from a generator of their own.

torchvision's ``RandomResizedCrop`` draws from the global generator, which other threads use at the same time; here the
same generator always gives the same crop, whatever else runs.

Example:
    >>> image = Image.new("RGB", (90, 60))
    >>> random_crop(image, 32, 0.5, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 32, 32])
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

#: Width over height of a crop, at least and at most.
RATIOS = (3 / 4, 4 / 3)
_TRIES = 10


def random_crop(
    image: Image.Image, size: int, smallest: float, generator: torch.Generator
) -> UInt8[Tensor, "3 row column"]:
    """A random part of a picture, resized (bicubic) to ``size`` and mirrored half of the time.

    Args:
        smallest: share of the area that a crop keeps at least.
    """
    draws = torch.rand(_TRIES, 4, generator=generator).tolist()
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    small = image.resize((size, size), Image.Resampling.BICUBIC, _box(*image.size, smallest, draws))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    return (pixels.flip(-1) if mirrored else pixels).contiguous()


def _box(width: int, height: int, smallest: float, draws: list[list[float]]) -> tuple[int, int, int, int]:
    """The first of some random boxes that fits; else the largest centered square (as torchvision does)."""
    low, high = (math.log(ratio) for ratio in RATIOS)
    for share, shape, down, across in draws:
        area, ratio = width * height * (smallest + (1 - smallest) * share), math.exp(low + (high - low) * shape)
        wide, tall = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if wide <= width and tall <= height:
            left, top = int(across * (width - wide + 1)), int(down * (height - tall + 1))
            return left, top, left + wide, top + tall
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
