"""How often ISSBA's string is read again, and how visible it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import UInt8
from torch import Tensor

from ....errors import DataError

if TYPE_CHECKING:
    from . import ISSBA


@dataclass(frozen=True)
class Recovery:
    """What a fitted ISSBA does to some pictures, through rounding to 8 bits.

    Attributes:
        pictures: how many.
        share: of triggered pictures that the string is read from.
        clean: of untouched pictures that the string is read from; should be 0.
        bit_errors: share of wrong bits in triggered pictures, before correction.
        psnr: peak signal-to-noise ratio of triggered pictures in dB, mean over pictures.
        residual: root mean square of the change, in 8-bit units.
        alike: mean cosine between the changes of two pictures: 1 is one pattern for all.
    """

    pictures: int
    share: float
    clean: float
    bit_errors: float
    psnr: float
    residual: float
    alike: float


def measure_recovery(trigger: ISSBA, images: UInt8[Tensor, "image 3 row column"], batch_size: int = 64) -> Recovery:
    """Trigger pictures, round them, and read them again.

    Raises:
        DataError: there are no pictures, or they are not 8-bit.
        SettingError: the trigger was not fitted.
    """
    if not len(images) or images.dtype != torch.uint8:
        raise DataError(f"Recovery is measured on 8-bit pictures, not on {len(images)} of type {images.dtype}.")
    expected = trigger.code.encode(trigger.message) > 0.5
    found: list[str | None] = []
    untouched: list[str | None] = []
    wrong, squares, unit = 0.0, [], torch.zeros(images[0].numel(), dtype=torch.float64)
    for start in range(0, len(images), batch_size):
        clean = images[start : start + batch_size].float() / 255
        rounded = trigger(clean, torch.arange(start, start + len(clean))).mul(255).round() / 255
        found += trigger.decode(rounded)
        untouched += trigger.decode(clean)
        wrong += (trigger.read(rounded) != expected.to(clean.device)).sum().item()
        change = (rounded - clean).flatten(1).double().cpu()
        squares.append(change.square().mean(1))
        unit += torch.nn.functional.normalize(change, dim=1).sum(0)
    square, count = torch.cat(squares), len(images)
    return Recovery(
        pictures=count,
        share=found.count(trigger.message) / count,
        clean=untouched.count(trigger.message) / count,
        bit_errors=wrong / (count * len(expected)),
        psnr=-10 * square.clamp_min(1e-12).log10().mean().item(),
        residual=255 * square.mean().sqrt().item(),
        # The squared length of a sum of unit vectors counts every pair twice, and each vector with itself.
        alike=(unit.square().sum().item() - count) / (count * (count - 1)) if count > 1 else 1.0,
    )
