"""Benign perturbations of pictures, with the settings of RVPT's appendix A (Zhang et al.).

A perturbation is any callable ``(pictures in 0..1, their numbers) -> pictures``; the triggers of
:mod:`clip_decomp.attacks.triggers` are perturbations as they are, and :class:`PixelFunction` makes one of any function
of pixels. Those of this module stay within 0..1, never change their input, and draw what is random from their seed and
the picture's number alone: how pictures are split into batches does not matter.

==================== ================================== ============================================================
perturbation         the appendix                       where it is silent, here
==================== ================================== ============================================================
``gaussian-noise``   standard deviation 0.001           on pixels in 0..1, then clipped to them (a quarter of an
                                                        8-bit level; were 0.001 the variance, it would be 0.032)
``gaussian-blur``    kernel 3, variance 5               pixels of a 224-pixel picture, scaled to the picture's size
``color-jitter``     brightness 0.5, hue 0.3            torchvision's ranges: factor 0.5 to 1.5, shift -0.3 to 0.3 of
                                                        the color circle, uniform, one after the other in random order
``horizontal-flip``  "random"                           every picture is flipped: untouched ones would only dilute
                                                        the result with ones (``probability=0.5`` flips half)
==================== ================================== ============================================================

Example:
    >>> images = torch.rand(2, 3, 64, 64)
    >>> sorted(PERTURBATIONS)
    ['color-jitter', 'gaussian-blur', 'gaussian-noise', 'horizontal-flip']
    >>> flipped = make_perturbation("horizontal-flip")(images, torch.tensor([0, 1]))
    >>> torch.equal(flipped.flip(-1), images)
    True
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import sqrt
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms.v2 import functional

from ..errors import SettingError


class Perturbation(Protocol):
    """Whatever turns pictures in 0..1 into other pictures of the same shape."""

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"], /
    ) -> Float[Tensor, "batch 3 row column"]:
        """Perturbed copies; ``numbers`` tell pictures apart where the perturbation is random."""
        ...


@dataclass(frozen=True)
class GaussianNoise:
    """Independent Gaussian noise in every pixel and channel, clipped to 0..1.

    The numbers are drawn here because torchvision's transform takes no generator.

    Attributes:
        sigma: standard deviation, in units of the pixels' range 0..1.
    """

    name: ClassVar[str] = "gaussian-noise"
    sigma: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise SettingError(f"Gaussian noise needs sigma >= 0, not {self.sigma}.")
        _check_seed(self.seed)

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Noisy copies of pictures in 0..1."""
        drawn = [rng.standard_normal(images.shape[1:], dtype=np.float32) for rng in _generators(self.seed, numbers)]
        return (images + self.sigma * torch.from_numpy(np.stack(drawn)).to(images)).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class GaussianBlur:
    """Blur with a Gaussian kernel (torchvision's), the same for every picture.

    With ``reference`` the standard deviation is multiplied by ``width / reference`` and so is the kernel's radius,
    rounded to pixels; the radius never falls below one pixel, which would be no blur. Kernel 3 at 224 pixels cuts the
    Gaussian of variance 5 off hard (what is left has standard deviation 0.80 pixels); on small pictures less of it is
    cut off.

    Attributes:
        kernel_size: side of the kernel in pixels, odd.
        variance: in square pixels.
        reference: width in pixels of the pictures that the settings are meant for; None takes them as they stand.

    Example:
        >>> [GaussianBlur().kernel(width) for width in (224, 64, 448)]
        [(3, 2.236...), (3, 0.638...), (5, 4.472...)]
    """

    name: ClassVar[str] = "gaussian-blur"
    kernel_size: int = 3
    variance: float = 5.0
    reference: int | None = 224

    def __post_init__(self) -> None:
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise SettingError(f"Gaussian blur needs an odd kernel of 3 pixels or more, not {self.kernel_size}.")
        if not self.variance > 0:
            raise SettingError(f"Gaussian blur needs a variance above 0, not {self.variance}.")
        if self.reference is not None and self.reference < 1:
            raise SettingError(f"The width that blur is scaled from must be 1 pixel or more, not {self.reference}.")

    def kernel(self, width: int) -> tuple[int, float]:
        """Kernel side and standard deviation, in pixels, for pictures this wide."""
        scale = 1.0 if self.reference is None else width / self.reference
        radius = max(1, round((self.kernel_size - 1) / 2 * scale))
        return 2 * radius + 1, sqrt(self.variance) * scale

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Blurred copies of pictures in 0..1."""
        side, sigma = self.kernel(images.shape[-1])
        return functional.gaussian_blur_image(images, [side, side], [sigma, sigma]).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class ColorJitter:
    """Brightness and hue changed at random, picture by picture, as torchvision's transform of this name does.

    Attributes:
        brightness: pixels are multiplied by a factor uniform in ``1 - brightness`` (at least 0) to ``1 + brightness``.
        hue: hues turn by a share of the color circle uniform in ``-hue`` to ``hue``.
    """

    name: ClassVar[str] = "color-jitter"
    brightness: float = 0.5
    hue: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.brightness >= 0 or not 0 <= self.hue <= 0.5:
            raise SettingError(
                f"Color jitter needs brightness >= 0 and 0 <= hue <= 0.5, not brightness={self.brightness}, "
                f"hue={self.hue}."
            )
        _check_seed(self.seed)

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Recolored copies of pictures in 0..1."""
        generators = _generators(self.seed, numbers)
        return torch.stack([self._jitter(image, rng) for image, rng in zip(images, generators, strict=True)])

    def _jitter(self, image: Float[Tensor, "3 row column"], rng: np.random.Generator) -> Float[Tensor, "3 row column"]:
        factor = rng.uniform(max(0.0, 1 - self.brightness), 1 + self.brightness)
        turn = rng.uniform(-self.hue, self.hue)
        if rng.random() < 0.5:
            return functional.adjust_hue_image(functional.adjust_brightness_image(image, factor), turn)
        return functional.adjust_brightness_image(functional.adjust_hue_image(image, turn), factor)

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class HorizontalFlip:
    """Left and right exchanged.

    Attributes:
        probability: share of the pictures that are flipped, chosen at random.
    """

    name: ClassVar[str] = "horizontal-flip"
    probability: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise SettingError(f"A flip's probability lies in 0..1, not {self.probability}.")
        _check_seed(self.seed)

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Copies of pictures, flipped or not."""
        chosen = torch.tensor([rng.random() < self.probability for rng in _generators(self.seed, numbers)])
        return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(-1), images)

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class PixelFunction:
    """A perturbation made of a function of pixels; it is as repeatable as the function.

    Attributes:
        function: gets pictures in 0..1 of [batch, 3, row, column] and returns as many of the same size.

    Example:
        >>> darker = PixelFunction(lambda images: images / 2, "half as bright")
        >>> darker(torch.ones(1, 3, 2, 2), torch.tensor([0])).max()
        tensor(0.5000)
    """

    function: Callable[[Float[Tensor, "batch 3 row column"]], Float[Tensor, "batch 3 row column"]]
    name: str

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """What the function makes of the pictures."""
        return self.function(images)


#: The four of RVPT's appendix by name, each with the appendix's settings as defaults.
PERTURBATIONS: Mapping[str, Callable[..., Perturbation]] = MappingProxyType(
    {kind.name: kind for kind in (GaussianNoise, GaussianBlur, ColorJitter, HorizontalFlip)}
)


def make_perturbation(name: str, **settings: Any) -> Perturbation:
    """A perturbation of :data:`PERTURBATIONS` by name.

    Raises:
        SettingError: no such perturbation or no such setting.
    """
    if name not in PERTURBATIONS:
        raise SettingError(f"There is no perturbation {name!r}: choose from {sorted(PERTURBATIONS)}.")
    try:
        return PERTURBATIONS[name](**settings)
    except TypeError as error:
        raise SettingError(f"{name}: {error}") from error


def _generators(seed: int, numbers: Int[Tensor, " batch"]) -> list[np.random.Generator]:
    """A generator a picture; numpy mixes both numbers well, where torch would use 32 bits of one."""
    return [np.random.default_rng((seed, number)) for number in numbers.tolist()]


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise SettingError(f"A seed must be 0 or more, not {seed}.")
