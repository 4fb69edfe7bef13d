r"""SIG: a sinusoid over the columns of the whole image (Barni et al. 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import SettingError
from .base import SeededTrigger


@dataclass(frozen=True)
class SIG(SeededTrigger):
    r"""Adds :math:`\Delta \sin(2 \pi f j / m)` to column j of m, in every channel; the result is cut to 0..1.

    Attributes:
        strength: :math:`\Delta`, of pixels in 0..1 (Barni et al.: 20 to 60 of 255; 40 here).
        frequency: periods across the image.
    """

    name: ClassVar[str] = "sig"
    strength: float = 40 / 255
    frequency: float = 6.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1 or not self.frequency > 0:
            raise SettingError(
                f"SIG needs 0 < strength <= 1 and frequency > 0, not {self.strength} and {self.frequency}."
            )

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""
        width = images.shape[-1]
        columns = torch.arange(width, dtype=torch.float64) / width
        wave = self.strength * (2 * math.pi * self.frequency * columns).sin()
        return (images + wave.to(images)).clamp(0, 1)
