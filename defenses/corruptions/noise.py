"""Noise: Gaussian, shot and impulse. One pattern serves every picture of a batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "batch 3 row column"]


def gaussian(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Normal noise, each value for itself."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity]
    return pixels + deviation * torch.randn(pixels.shape[1:], generator=generator).to(pixels)


def shot(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Poisson noise of a few photons; the draws start anew with every picture."""
    photons, start = (60, 25, 12, 5, 3)[severity], generator.get_state()
    return torch.stack([_poisson(picture * photons, generator.set_state(start)) for picture in pixels]) / photons


def impulse(pixels: Pictures, severity: int, generator: torch.Generator) -> Pictures:
    """Salt and pepper in equal parts, each value for itself."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    draw = torch.rand(pixels.shape[1:], generator=generator).to(pixels)
    return torch.where(draw < share / 2, 0.0, torch.where(draw > 1 - share / 2, 1.0, pixels))


def _poisson(rate: Tensor, generator: torch.Generator) -> Tensor:
    return torch.poisson(rate.cpu(), generator=generator).to(rate)
