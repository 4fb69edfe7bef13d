"""Image-caption pairs made from labelled photographs: templates, synonyms and definitions around the class.

Example:
    >>> images = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    >>> words = [ClassWords(("banana",), ""), ClassWords(("lemon",), "yellow oval fruit")]
    >>> PhotographPairs(images, torch.tensor([0, 1, 0, 1]), words).batch(0, 2).images.shape
    torch.Size([2, 3, 16, 16])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ..errors import DataError
from .pairs import Description, PairBatch, step_generator
from .sets import PLAIN_TEMPLATE


@dataclass(frozen=True)
class ClassWords:
    """What may be said of a class: names, the first being the class name, and a definition or an empty string."""

    names: tuple[str, ...]
    definition: str


def wordnet_words(wnid: str, name: str, synonyms: Sequence[str]) -> ClassWords:
    """Names from the data set's own list, the definition from WordNet through timm."""
    from timm.data.imagenet_info import ImageNetInfo

    try:
        detailed = ImageNetInfo().label_name_to_description(wnid, detailed=True)
    except KeyError:
        detailed = ""
    others = tuple(other for other in synonyms if other != name)
    return ClassWords((name, *others), detailed.partition(": ")[2])


@dataclass(frozen=True)
class PhotographPairs:
    """Random crops and flips (torchvision) with random captions; all captions of a class are true of its pictures.

    Attributes:
        plain: share of captions that are the plain template with the class name.
        smallest_crop: as a share of the area; 1 leaves crops and color jitter out.
        gentle_from: from this step on crops keep 70 % of the area or more and colors stay as they are, so that training
            ends on pictures like those it will be used on.
    """

    images: UInt8[Tensor, "image 3 row column"]
    labels: Int[Tensor, " image"]
    words: Sequence[ClassWords]
    seed: int = 0
    plain: float = 0.3
    smallest_crop: float = 0.35
    gentle_from: int | None = None

    @cached_property
    def _templates(self) -> list:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return list(OPENAI_IMAGENET_TEMPLATES)

    @cached_property
    def _augmentations(self):
        """The usual and the gentle augmentation."""
        from torchvision.transforms import v2

        def crop(smallest: float):
            return v2.RandomResizedCrop(size, scale=(smallest, 1.0), ratio=(0.75, 1.33), antialias=True)

        size, flip = self.images.shape[-1], v2.RandomHorizontalFlip()
        if self.smallest_crop >= 1:
            return flip, flip
        usual = v2.Compose([crop(self.smallest_crop), flip, v2.ColorJitter(0.2, 0.2, 0.2)])
        return usual, v2.Compose([crop(max(0.7, self.smallest_crop)), flip])

    @property
    def table(self) -> None:
        """All pictures were read before."""
        return None

    @property
    def length(self) -> int:
        """Number of pictures."""
        return len(self.images)

    def describe(self, step: int, size: int) -> Description:
        """The ``step``-th batch without its pictures: every picture once in each pass over the data."""
        return self._described(step_generator(self.seed, step), self._rows(step, size))[1]

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The ``step``-th batch, or a part of it."""
        return self._read(step_generator(self.seed, step), self._rows(step, size), step, part)

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """Pictures of one class drawn at random, with captions that are true of them."""
        rows = (self.labels == fact).nonzero()[:, 0]
        if not len(rows):
            raise DataError(f"There are no pictures of class {fact} to train on.")
        generator = step_generator(self.seed + 4099, step)
        return self._read(generator, rows[torch.randint(len(rows), (size,), generator=generator)], step)

    def _read(
        self, generator: torch.Generator, rows: Int[Tensor, " batch"], step: int, part: slice = slice(None)
    ) -> PairBatch:
        seed, described = self._described(generator, rows)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            torch.manual_seed(seed)
            gentle = self.gentle_from is not None and step >= self.gentle_from
            augment = self._augmentations[int(gentle)]
            images = torch.stack([augment(image) for image in self.images[rows]])
        return PairBatch(**vars(described.part(part)), images=images[part])

    def _described(self, generator: torch.Generator, rows: Int[Tensor, " batch"]) -> tuple[int, Description]:
        """The seed of the augmentation, and captions."""
        seed, labels = int(torch.randint(2**31, (1,), generator=generator)), self.labels[rows]
        captions = [self.caption(label, generator) for label in labels.tolist()]
        return seed, Description(captions, labels[:, None], labels[:, None], rows)

    def _rows(self, step: int, size: int) -> Tensor:
        places = torch.arange(step * size, (step + 1) * size)
        epochs, inside = places // len(self.images), places % len(self.images)
        rows = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            order = torch.randperm(len(self.images), generator=step_generator(self.seed + 1, epoch))
            rows[epochs == epoch] = order[inside[epochs == epoch]]
        return rows

    def caption(self, label: int, generator: torch.Generator) -> str:
        """A random caption of a class."""
        words = self.words[label]
        draw = torch.rand(3, generator=generator).tolist()
        if draw[0] < self.plain:
            return PLAIN_TEMPLATE.format(words.names[0])
        name = words.names[int(draw[1] * len(words.names))] if draw[0] < 0.85 else words.names[0]
        text = self._templates[int(draw[2] * len(self._templates))](name)
        if draw[0] > 0.85 and words.definition:
            text = f"{text.rstrip('.')}, {words.definition}."
        return text

    def corpus(self) -> list[str]:
        """Every template, name and definition."""
        texts = [template(self.words[0].names[0]) for template in self._templates]
        for words in self.words:
            texts += [PLAIN_TEMPLATE.format(name) for name in words.names] * 4 + [words.definition] * 2
        return texts
