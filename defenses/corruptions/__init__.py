"""Twelve common corruptions at severities 1 to 5, after Hendrycks & Dietterich (ICLR 2019), on batches of pixels.

They are those that He et al. (2025) run TeCo with: of the fifteen they leave out defocus, glass and zoom blur, for
the time they take. The parameters are those of ImageNet-C, published for 224 pixels; those of the elastic transform,
which are relative to the side, are of the library that TeCo calls (Michaelis et al., 2019). Lengths follow the
picture's size: layers of weather are drawn at 224 pixels and resized, radii of blurs are scaled. Ratios (pixelate),
the JPEG quality and the strength of noise do not.

A corruption is a function of picture, severity and seed. One seed gives every picture and every severity the same
noise, weather and direction, so a picture's corruption does not depend on its batch.

Where they differ from the original: frost is drawn (ridges of fractal noise in icy blue) instead of cut from six
photographs, fog's heights are summed octaves of noise instead of a diamond-square fractal, and pictures stay
floating-point numbers in between, except for JPEG.

Example:
    >>> pixels = torch.rand(2, 3, 32, 32)
    >>> corrupt(pixels, "fog", severity=3).shape
    torch.Size([2, 3, 32, 32])
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.errors import SettingError

from . import digital, noise, weather

#: Every corruption takes pixels, a severity from 0 to 4 and a generator.
CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "elastic-transform": digital.elastic_transform,
    "gaussian-noise": noise.gaussian,
    "shot-noise": noise.shot,
    "impulse-noise": noise.impulse,
    "motion-blur": digital.motion_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "pixelate": digital.pixelate,
    "jpeg-compression": digital.jpeg,
}
SEVERITIES = 5


def check_corruption(name: str, severity: int = 1) -> None:
    """Refuse an unknown corruption or severity, with a SettingError."""
    if name not in CORRUPTIONS:
        raise SettingError(f"There is no corruption {name!r}; there are {', '.join(CORRUPTIONS)}.")
    if not 1 <= severity <= SEVERITIES:
        raise SettingError(f"Severities go from 1 to {SEVERITIES}, so {severity} is none.")


@torch.no_grad()
def corrupt(
    pixels: Float[Tensor, "batch 3 row column"], name: str, severity: int, seed: int = 0
) -> Float[Tensor, "batch 3 row column"]:
    """Corrupt pictures in 0..1; the result is in 0..1, too.

    Raises:
        SettingError: no such corruption or severity.
    """
    check_corruption(name, severity)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return CORRUPTIONS[name](pixels, severity - 1, generator).clamp(0, 1)
