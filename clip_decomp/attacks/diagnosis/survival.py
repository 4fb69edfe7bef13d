"""What of a trigger reaches the model when it is put on pictures *before* they are resized, cropped and compressed.

A trigger is trained on pictures of the model's input size. Whoever calls the backdoor from outside puts it on pictures
of other sizes, which are then stored (JPEG), resized, cropped to their middle and rounded to 8 bits. For each picture
``x``, with the trigger ``t`` and the way ``w`` to the model, all differences in 8-bit units::

    arrived  = w(t(x)) - w(x)                       expected = t(w(x)) - w(x)   without JPEG
    energy   = sum |arrived|^2 / sum |expected|^2   over all pictures
    likeness = sum <arrived, expected> / sqrt(sum |arrived|^2 sum |expected|^2)
    vanished = share of pictures in which arrived is 0 everywhere

Normalization comes after that and is the same affine map for both, so it loses nothing.

Limits: the energy says how much arrives, not whether it is the same pattern: noise that is drawn at the picture's own
size is another pattern at another size, and JPEG also moves the block noise of the picture itself. The likeness tells,
but it is low as well where a trigger at a random place lands elsewhere on a picture of another size.

Example:
    >>> from clip_decomp.attacks.triggers import BadNet
    >>> wide = [Image.new("RGB", (400, 200), (90, 120, 60))]
    >>> survival(BadNet(place="center"), wide, size=200).energy_share
    1.0
    >>> survival(BadNet(place="bottom right"), wide, size=200).vanished  # outside the middle 200 x 200
    1.0
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ...data.images import open_image, to_pixels, to_rgb
from ...errors import DataError, SettingError
from ..triggers import Trigger, trigger_picture

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Survival:
    """Changes that a trigger makes to the pixels that reach the model, in units of 1/255.

    Attributes:
        change: mean |difference| of each picture, triggered before the preprocessing.
        largest: the largest |difference| of each picture.
        energy: sum of squared differences of each picture.
        expected_change, expected_energy: the same when the trigger is applied at the model's input size.
        product: sum of the products of both differences.
        jpeg: the quality that pictures were stored at; None for no compression.
    """

    change: Float[Tensor, " picture"]
    largest: Float[Tensor, " picture"]
    energy: Float[Tensor, " picture"]
    expected_change: Float[Tensor, " picture"]
    expected_energy: Float[Tensor, " picture"]
    product: Float[Tensor, " picture"]
    size: int
    jpeg: int | None

    def __len__(self) -> int:
        return len(self.change)

    @property
    def energy_share(self) -> float:
        """How much of the trigger's energy arrives; 0 where even the direct trigger changes nothing."""
        expected = float(self.expected_energy.sum())
        return float(self.energy.sum()) / expected if expected else 0.0

    @property
    def likeness(self) -> float:
        """Cosine between the changes that arrive and the direct trigger's; 0 where one of them is nothing."""
        size = float((self.energy.sum() * self.expected_energy.sum()).sqrt())
        return float(self.product.sum()) / size if size else 0.0

    @property
    def vanished(self) -> float:
        """Share of pictures that reach the model unchanged."""
        return float((self.largest < 1).float().mean())

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a picture."""
        import pandas as pd

        names = ("change", "largest", "energy", "expected_change", "expected_energy", "product")
        return pd.DataFrame({name: getattr(self, name).tolist() for name in names})

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3g}")


def survival(
    trigger: Trigger,
    pictures: Sequence[Image.Image],
    size: int,
    jpeg: int | None = None,
    numbers: Sequence[int] | None = None,
) -> Survival:
    """Measure what of a trigger reaches a model whose input is ``size`` pixels wide.

    Args:
        pictures: originals, of any size and mode.
        jpeg: store the pictures as JPEG of this quality on the way.
        numbers: tell pictures apart where the trigger is random; 0, 1, 2, ... by default.

    Raises:
        DataError: no pictures, or another number of numbers.
        SettingError: a size below 1, or a JPEG quality outside 1..100.
    """
    if not pictures:
        raise DataError("There are no pictures to put the trigger on.")
    if size < 1 or (jpeg is not None and not 1 <= jpeg <= 100):
        raise SettingError(f"Need a size of 1 or more and a JPEG quality in 1..100, not size={size}, jpeg={jpeg}.")
    places = range(len(pictures)) if numbers is None else numbers
    if len(places) != len(pictures):
        raise DataError(f"{len(pictures)} pictures need as many numbers, not {len(places)}.")
    rows = [_measure(trigger, to_rgb(each), size, jpeg, k) for each, k in zip(pictures, places, strict=True)]
    return Survival(*torch.tensor(rows, dtype=torch.float64).T, size=size, jpeg=jpeg)


def _measure(trigger: Trigger, picture: Image.Image, size: int, jpeg: int | None, number: int) -> list[float]:
    plain = to_pixels(picture, size)
    direct = trigger(plain[None].float() / 255, torch.tensor([number]))[0].clamp(0, 1).mul(255).round()
    expected = direct.double() - plain.double()
    stored = (_stored(each, jpeg) for each in (picture, trigger_picture(trigger, picture, number)))
    clean, triggered = (to_pixels(each, size).double() for each in stored)
    arrived = triggered - clean
    found = (
        *(arrived.abs().mean(), arrived.abs().max(), arrived.square().sum()),
        *(expected.abs().mean(), expected.square().sum(), (arrived * expected).sum()),
    )
    return [float(each) for each in found]


def _stored(picture: Image.Image, quality: int | None) -> Image.Image:
    if quality is None:
        return picture
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return open_image(buffer.getvalue(), "a picture stored as JPEG")
