r"""ISSBA: a message that a network hides in every picture, each time differently (Li et al. 2021, also called SSBA).

An encoder adds to a picture :math:`x` a residual that depends on the picture and on a message of bits, and a decoder
reads the bits again (StegaStamp, Tancik et al. 2020). The attacker always hides the same string:

.. math:: x' = \mathrm{clip}(x + s\, r(x, m)),\qquad \mathrm{rms}(r) = 1,\qquad PSNR \ge 20 \log_{10}(255 / s)

with s the ``strength`` in 8-bit units. The networks are trained here, on the attacker's own pictures, with random
messages, so that the decoder reads the message and not the presence of one pattern.

Limits: both networks work at ``size`` pixels whatever the picture's size is: the string is read at half to many times
that size, but not in much smaller pictures. It survives resizing and rounding, but no JPEG compression: training has
none of it. The public code's networks are larger and were trained with critics; this one fixes the residual's
energy instead. How much of the residual is common to all pictures is a setting (``alike``); the paper has none, but a
model can only learn what residuals have in common.

Example:
    >>> trigger = ISSBA(seed=0)
    >>> trigger.code.capacity, trigger.fitted
    (7, False)
    >>> trigger(torch.rand(1, 3, 64, 64), torch.tensor([0]))
    Traceback (most recent call last):
    ...
    clip_decomp.errors.SettingError: ISSBA's encoder is not trained: call fit(...), or restore(...) stored tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ....errors import SettingError
from ..base import SeededTrigger
from .message import MessageCode
from .network import GRAIN, Steganographer
from .recovery import Recovery, measure_recovery
from .training import Plan, train

if TYPE_CHECKING:
    from ....data.pairs import PairStream
    from ....model import HookedCLIP

__all__ = ["ISSBA", "MessageCode", "Recovery", "measure_recovery"]

#: Training pictures come from batches of the stream that no training run reaches.
_FIRST_BATCH, _DRAWN = 500_000, 128


@dataclass(frozen=True)
class ISSBA(SeededTrigger):
    """A string hidden in every picture by a trained encoder.

    Attributes:
        message: printable ASCII.
        strength: root mean square of the residual in 8-bit units: 8 is a PSNR of 30 dB. A trained network can be used
            at another strength than it was trained at.
        alike: cosine between the residuals of two pictures that training aims at: 1 is one pattern for all pictures.
        bits, parity: bits hidden, and bytes of them that correct errors; half as many wrong bytes are corrected.
        size: pixels along the square that the networks work on.
        width: channels of their convolutions.
        steps, batch_size, lr: of their training.
        pictures: that they are trained on.
        network: what :meth:`fit` learned; not part of the settings, nor of comparisons.

    Raises:
        SettingError: a setting out of range, or a message that the bits do not hold.
    """

    name: ClassVar[str] = "issba"
    message: str = "Stega!!"
    strength: float = 8.0
    alike: float = 0.5
    bits: int = 96
    parity: int = 5
    size: int = 64
    width: int = 32
    steps: int = 1000
    batch_size: int = 16
    lr: float = 2e-3
    pictures: int = 2048
    seed: int = 0
    network: Steganographer | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.code.encode(self.message)
        if not self.strength > 0 or not 0 <= self.alike <= 1 or not self.lr > 0:
            raise SettingError(
                f"ISSBA needs strength and lr > 0 and alike in 0..1, not strength={self.strength}, lr={self.lr}, "
                f"alike={self.alike}."
            )
        if self.size < GRAIN or self.size % GRAIN or self.width < 4 or self.width % 4:
            raise SettingError(
                f"ISSBA needs a size that is a multiple of {GRAIN} and a width that is a multiple of 4, not "
                f"{self.size} and {self.width}."
            )
        if self.batch_size < 2 or self.batch_size % 2 or self.steps < 1 or self.pictures < 1:
            raise SettingError(
                f"ISSBA needs an even batch_size and steps and pictures >= 1, not batch_size={self.batch_size}, "
                f"steps={self.steps}, pictures={self.pictures}."
            )

    @property
    def code(self) -> MessageCode:
        """How messages become bits."""
        return MessageCode(self.bits, self.parity)

    @property
    def fitted(self) -> bool:
        """Whether there are networks to use."""
        return self.network is not None

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1.

        Raises:
            SettingError: it was not fitted.
        """
        network = self._network(images)
        if not images.numel():
            return images.clone()
        bits = self.code.encode(self.message).to(images.device).expand(len(images), -1)
        return (images + self.strength / 255 * network.residual(images, bits).to(images)).clamp(0, 1)

    def read(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, "batch bit"]:
        """The bits that the decoder sees in pictures in 0..1.

        Raises:
            SettingError: it was not fitted.
        """
        network = self._network(images)
        return network.read(images) > 0 if images.numel() else torch.zeros(0, self.bits, dtype=torch.bool)

    def decode(self, images: Float[Tensor, "batch 3 row column"]) -> list[str | None]:
        """The string in each picture, after error correction; None where there is none.

        Raises:
            SettingError: it was not fitted.
        """
        return self.code.decode(self.read(images))

    def fit(self, model: HookedCLIP, stream: PairStream, names: Sequence[str], target: str) -> Self:
        """A copy with networks trained on the stream's pictures, on the model's device; of the model nothing is used.

        A fitted trigger stays as it is.

        Raises:
            TrainingFailed: the loss is not finite.
        """
        if self.fitted:
            return self
        starts = range(0, self.pictures, _DRAWN)
        drawn = [stream.batch(_FIRST_BATCH + number, _DRAWN).images for number in range(len(starts))]
        network = self._blank().to(model.device)
        train(
            network,
            torch.cat(drawn)[: self.pictures],
            self.bits,
            Plan(self.strength, self.alike, self.steps, self.batch_size, self.lr, self.seed),
        )
        # Through the stored precision, so that a restored trigger is the same to the last bit.
        return self.restore(network.stored())

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again, the networks apart."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "network"}
        return {"name": self.name, **own}

    def tensors(self) -> dict[str, Tensor]:
        """The networks' weights in float16; nothing before :meth:`fit`."""
        return {} if self.network is None else self.network.stored()

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with what :meth:`tensors` returned.

        Raises:
            ModelError: the tensors do not fit the settings.
        """
        return replace(self, network=self._blank().take(tensors) if tensors else None)

    def _blank(self) -> Steganographer:
        return Steganographer(self.bits, self.size, self.width, self.seed)

    def _network(self, images: Tensor) -> Steganographer:
        if self.network is None:
            raise SettingError("ISSBA's encoder is not trained: call fit(...), or restore(...) stored tensors.")
        return self.network.to(images.device)
