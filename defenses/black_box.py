"""What detectors have in common that change a picture's pixels and watch what the model makes of it.

Each is fitted to a few clean pictures, drawn by its seed. They set the cutoff: the 95 % quantile of their scores. A
picture's score depends on the picture, the settings and the fit alone, never on the others in its batch: all pictures
meet the same blends, masks and noise.

Example:
    >>> import clip_decomp
    >>> from defenses import ScaleUp
    >>> model = clip_decomp.load("world/badnet")
    >>> images = torch.zeros(4, 3, 64, 64)
    >>> detector = ScaleUp().fit(model, images, class_names=["banana", "key"])
    >>> detector.classes(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clip_decomp.data.sets import PLAIN_TEMPLATE, ImageSet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.zeroshot import class_vectors, predict

from .tuning import WithSettings


def at_least(low: int, **settings: int) -> None:
    """Refuse whole-number settings below a bound, with a SettingError that names the setting."""
    for name, value in settings.items():
        if value < low:
            raise SettingError(f"The setting {name} must be {low} or more, not {value}.")


class BlackBoxDetector(WithSettings, ABC):
    """A detector that calls a model on changed pixels.

    Args:
        calibration: clean pictures that the cutoff is measured on, at most.
        batch_size: pictures in a call of the model; it bounds the memory.
        seed: of whatever is drawn.

    Attributes:
        model_: the model that is called.
        vectors_: unit text vectors of the classes, if the method asks for classes.
        cutoff_: the 95 % quantile of the scores of the clean pictures.

    Raises:
        SettingError: ``calibration`` or ``batch_size`` below 1.
    """

    #: Whether the method asks what class a picture is given.
    by_class: ClassVar[bool] = True
    vectors_: Float[Tensor, "cls d_embed"]
    cutoff_: float

    def __init__(self, calibration: int, batch_size: int, seed: int):
        at_least(1, calibration=calibration, batch_size=batch_size)
        self.calibration, self.batch_size, self.seed = calibration, batch_size, seed

    @property
    def copies(self) -> int:
        """Changed copies of one picture that are kept at a time."""
        return 1

    @property
    def apart(self) -> int:
        """Clean pictures that are needed beside those of the calibration."""
        return 0

    def fit(
        self,
        model: HookedCLIP,
        clean: ImageSet | Float[Tensor, "image 3 row column"],
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
    ) -> Self:
        """Learn from clean pictures what is usual; returns itself.

        Args:
            clean: a data set, which brings its names and templates, or normalized pictures.
            class_names: of normalized pictures, where the method asks for classes.

        Raises:
            SettingError: normalized pictures without class names.
            DataError: no pictures, or too few.
        """
        if isinstance(clean, ImageSet):
            class_names, templates = clean.class_names, clean.templates
        self.model_ = model
        if self.by_class:
            if class_names is None:
                raise SettingError("Pictures in a tensor need class_names: what would the model call them?")
            self.vectors_ = class_vectors(model, class_names, templates)
        with torch.no_grad():
            self.learn(self._drawn(clean))
        return self

    def _drawn(self, clean: ImageSet | Tensor) -> Float[Tensor, "image 3 row column"]:
        if not len(clean):
            raise DataError("There are no clean pictures to learn from.")
        order = torch.randperm(len(clean), generator=torch.Generator().manual_seed(self.seed))
        places = order[: self.apart + self.calibration]
        if isinstance(clean, ImageSet):
            return clean.subset(places).load()[0].float() / 255
        return self.pixels(clean[places])

    def pixels(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """Normalized images as pixels in 0..1."""
        return self.model_.denormalize(images).clamp(0, 1)

    def learn(self, pixels: Float[Tensor, "image 3 row column"]) -> None:
        """Learn from the clean pictures that were drawn, in random order."""
        self.cutoff_ = float(self._scores(pixels).double().quantile(0.95))

    @abstractmethod
    def suspicion(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Scores of a few pictures in 0..1, which must not be changed in place."""

    @torch.no_grad()
    def score(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Suspicion of normalized images, higher is more suspicious.

        Raises:
            DataError: there are no images.
        """
        if not len(images):
            raise DataError("There are no images to score.")
        return self._scores(self.pixels(images))

    def predict(self, images: Float[Tensor, "batch 3 row column"]) -> Bool[Tensor, " batch"]:
        """Whether normalized images are flagged: more suspicious than 95 % of the clean pictures of the fit."""
        return self.score(images) > self.cutoff_

    def features(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Unit image representations of pixels in 0..1."""
        parts = pixels.split(self.batch_size)
        return torch.cat([self.model_.encode_image(self.model_.normalize(part), normalize=True) for part in parts])

    @torch.no_grad()
    def classes(self, pixels: Float[Tensor, "batch 3 row column"]) -> Int[Tensor, " batch"]:
        """Zero-shot classes of pixels in 0..1."""
        return predict(self.features(pixels), self.vectors_)

    def _scores(self, pixels: Tensor) -> Float[Tensor, " batch"]:
        few = max(1, self.batch_size // self.copies)
        return torch.cat([self.suspicion(part.to(self.model_.device)).float() for part in pixels.split(few)])
