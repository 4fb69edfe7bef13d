r"""WaNet: a fixed, smooth or rough warp of the whole image (Nguyen and Tran 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import SettingError
from .base import SeededTrigger


@dataclass(frozen=True)
class WaNet(SeededTrigger):
    """Every picture is sampled along one random flow, as in the public code, without the noise mode.

    A control grid of ``k`` by ``k`` random vectors, uniform in -1..1 and divided by their mean absolute value, is
    upsampled (bicubic) to the image and scaled by ``strength / height`` in units of half the image's side. RVPT's
    setting is k = image size and strength 1: a flow of half a pixel on average, drawn anew at every pixel.

    Attributes:
        k: control points along a side; the image's size by default.
    """

    name: ClassVar[str] = "wanet"
    k: int | None = None
    strength: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.k is not None and self.k < 2) or not self.strength > 0:
            raise SettingError(f"WaNet needs k >= 2 and strength > 0, not k={self.k}, strength={self.strength}.")

    def flow(self, height: int, width: int) -> Float[Tensor, "row column 2"]:
        """Where each pixel is taken from, in -1..1, corner to corner."""
        generator = torch.Generator().manual_seed(self.seed)
        rows, columns = (height, width) if self.k is None else (self.k, self.k)
        control = torch.rand(1, 2, rows, columns, generator=generator) * 2 - 1
        control = control / control.abs().mean()
        noise = F.interpolate(control, (height, width), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        # With one pixel along a side there is nothing to move.
        ys, xs = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in (height, width))
        identity = torch.stack(torch.meshgrid(ys, xs, indexing="ij"), dim=-1).flip(-1)
        return (identity + self.strength * noise / height).clamp(-1, 1)

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""
        if not len(images):
            return images.clone()
        flow = self.flow(*images.shape[-2:]).to(images).expand(len(images), -1, -1, -1)
        return F.grid_sample(images, flow, mode="bilinear", padding_mode="border", align_corners=True).clamp(0, 1)
