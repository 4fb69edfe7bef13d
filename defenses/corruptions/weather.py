"""Weather: snow, frost, fog and brightness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .fields import SIDE, fractal, resized, streak

Pictures = Float[Tensor, "batch 3 row column"]

_GRAY = (0.299, 0.587, 0.114)
_ICE = (0.82, 0.92, 1.0)


def snow(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Flakes in both directions of one wind over a whitened picture."""
    mean, deviation, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[severity]
    angle = -135 + 90 * torch.rand(1, generator=generator).item()
    cells = mean + deviation * torch.randn(1, 1, SIDE, SIDE, generator=generator)
    part = round(SIDE / zoom)
    layer = F.interpolate(cells[..., :part, :part], (SIDE, SIDE), mode="bilinear", align_corners=False)
    layer = torch.where(layer < threshold, 0.0, layer).clamp(0, 1)
    flakes = resized(streak(layer, radius, sigma, angle)[0], pixels)
    gray = (pixels * torch.tensor(_GRAY).to(pixels)[:, None, None]).sum(1, keepdim=True)
    whitened = kept * pixels + (1 - kept) * torch.maximum(pixels, 1.5 * gray + 0.5)
    return whitened + flakes + flakes.rot90(2, (1, 2))


def frost(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Ridges of ice over the picture."""
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[severity]
    ridges = 1 - (2 * fractal(1.4, generator, first=4) - 1).abs()
    crystals = ridges**2 * torch.tensor(_ICE)[:, None, None]
    return kept * pixels + ice * resized(crystals, pixels)


def fog(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Clouds of fractal noise on top, and less contrast below."""
    strength, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity]
    clouds = resized(fractal(decay, generator), pixels)
    brightest = pixels.amax((1, 2, 3), keepdim=True)
    return (pixels + strength * clouds) * brightest / (brightest + strength)


def brightness(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """A higher value in HSV, at the same hue and saturation."""
    value = pixels.amax(1, keepdim=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity]).clamp(max=1)
    return torch.where(value > 0, pixels * raised / value.clamp(min=1e-6), raised)
