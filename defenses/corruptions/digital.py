"""Motion, elasticity, contrast, and what cameras and files do."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.functional import gaussian_blur

from .fields import shrink, streak

Pictures = Float[Tensor, "batch 3 row column"]


def motion_blur(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """A shaken camera."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[severity]
    angle = -45 + 90 * torch.rand(1, generator=generator).item()
    return streak(pixels, radius * shrink(pixels), sigma * shrink(pixels), angle)


def elastic_transform(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Local displacements: white noise, smoothed over a hundredth of the side."""
    rows, columns = pixels.shape[-2:]
    reach = 0.005 * rows * (12.5, 16.25, 21.25, 25, 30)[severity]
    sigma = 0.01 * min(rows, columns)
    noise = reach * (2 * torch.rand(2, rows, columns, generator=generator) - 1)
    shift = gaussian_blur(noise, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma, sigma]).permute(1, 2, 0)
    regular = F.affine_grid(torch.eye(2, 3)[None], [1, 1, rows, columns], align_corners=False)
    grid = regular + 2 * shift / torch.tensor([columns, rows])
    moved = grid.to(pixels).expand(len(pixels), -1, -1, -1)
    return F.grid_sample(pixels, moved, mode="bilinear", padding_mode="reflection", align_corners=False)


def contrast(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Values pulled to the mean of their channel."""
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity]
    means = pixels.mean((2, 3), keepdim=True)
    return means + kept * (pixels - means)


def pixelate(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Fewer pixels a side, by a share of them."""
    share, size = (0.6, 0.5, 0.4, 0.3, 0.25)[severity], pixels.shape[-2:]
    small = F.interpolate(pixels, tuple(max(1, int(share * side)) for side in size), mode="area")
    return F.interpolate(small, tuple(size), mode="nearest-exact")


def jpeg(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """JPEG of low quality."""
    quality = (25, 18, 15, 10, 7)[severity]
    stored = (pixels.cpu() * 255).round().to(torch.uint8)
    return torch.stack([decode_jpeg(encode_jpeg(each, quality=quality)) for each in stored]).to(pixels) / 255
