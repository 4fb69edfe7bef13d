"""Random fields and blurs that several corruptions are made of, drawn at the size that ImageNet-C was published for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Pixels a side that the published lengths are meant for.
SIDE = 224


def shrink(like: Float[Tensor, "*batch row column"]) -> float:
    """How many of a picture's pixels one published pixel is."""
    return min(like.shape[-2:]) / SIDE


def resized(field: Float[Tensor, "channel row column"], like: Tensor) -> Float[Tensor, "channel height width"]:
    """A field in the size, and on the device, of some pictures."""
    size = tuple(like.shape[-2:])
    found = F.interpolate(field[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return found.to(like.device)


def fractal(decay: float, generator: torch.Generator, first: int = 2) -> Float[Tensor, "1 row column"]:
    """Octaves of smooth noise from ``first`` cells a side to single pixels, each ``decay`` times weaker than the one
    before, stretched to 0..1.
    """
    total, amplitude, cells = torch.zeros(1, 1, SIDE, SIDE), 1.0, first
    while cells <= SIDE:
        octave = torch.rand(1, 1, cells, cells, generator=generator) - 0.5
        total += amplitude * F.interpolate(octave, (SIDE, SIDE), mode="bicubic", align_corners=False)
        amplitude, cells = amplitude / decay, 2 * cells
    low, high = total.aminmax()
    return ((total - low) / (high - low))[0]


def streak(
    pixels: Float[Tensor, "batch channel row column"], radius: float, sigma: float, angle: float
) -> Float[Tensor, "batch channel row column"]:
    """Motion blur: a one-sided Gaussian along a line, with borders repeated.

    Args:
        radius: half the line's length, in pixels.
        sigma: of the Gaussian along the line, in pixels.
        angle: of the line, in degrees.
    """
    steps = torch.arange(0, 2 * radius + 1)
    weights = torch.exp(-(steps**2) / (2 * max(sigma, 1e-3) ** 2))
    reach = math.ceil(2 * radius) + 1
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1)
    along = torch.stack([reach + steps * math.sin(math.radians(angle)), reach + steps * math.cos(math.radians(angle))])
    base = along.floor()
    for down in (0, 1):
        for right in (0, 1):
            row, column = (base[0] + down).long(), (base[1] + right).long()
            share = (1 - (along[0] - row).abs()) * (1 - (along[1] - column).abs())
            kernel.index_put_((row, column), weights * share.clamp(min=0), accumulate=True)
    padded, (rows, columns) = F.pad(pixels, (reach,) * 4, mode="replicate"), pixels.shape[-2:]
    found = torch.zeros_like(pixels)
    for down, right in kernel.nonzero().tolist():
        found += kernel[down, right].item() * padded[..., down : down + rows, right : right + columns]
    return found / kernel.sum().item()
