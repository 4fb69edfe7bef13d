"""Labelled pictures behind one interface, whatever they are stored in.

An :class:`ImageSet` knows its class names, labels, templates and attack target and yields batches of 8-bit pictures of
one size. A picture that cannot be read is left out of its batch, counted and listed in :attr:`ImageSet.skipped`.

Example:
    >>> images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    >>> data = ImageSet("toy", ("apple", "pear"), torch.tensor([0, 1, 1]), TensorSource(images))
    >>> [tuple(batch.images.shape) for batch in data.batches(2)]
    [(2, 3, 8, 8), (1, 3, 8, 8)]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from ..errors import DataError, SettingError, class_place

PLAIN_TEMPLATE = "a photo of a {}."
#: Images at a time. On a CPU small batches stay in the cache: 64 are a quarter faster than 256.
BATCH_SIZE = 64


class Source(Protocol):
    """Random access to pictures."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> UInt8[Tensor, "3 row column"]:
        """One picture.

        Raises:
            DataError: it cannot be read; the message names it.
        """
        ...


@dataclass(frozen=True)
class TensorSource:
    """Pictures in memory."""

    images: UInt8[Tensor, "image 3 row column"]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> UInt8[Tensor, "3 row column"]:
        """One picture."""
        return self.images[index]


class Batch(NamedTuple):
    """Pictures, their labels and their places in the set."""

    images: UInt8[Tensor, "batch 3 row column"]
    labels: Int[Tensor, " batch"]
    indices: Int[Tensor, " batch"]


@dataclass(frozen=True)
class ImageSet:
    """A labelled set of pictures.

    Attributes:
        name: how results call it: ``world``, ``world:outlines``, ``tiny-imagenet``.
        labels: index into ``class_names`` for each picture of ``source``.
        indices: the pictures of ``source`` that belong to this set, all by default.
        templates: texts with one ``{}`` that turn a class name into a caption.
        target: the class that attacks on this set aim at.
        skipped: a line for every picture that could not be read so far.

    Raises:
        DataError: no pictures, a label out of range, fewer than two classes, or a class name that occurs twice.
    """

    name: str
    class_names: tuple[str, ...]
    labels: Int[Tensor, " image"]
    source: Source
    indices: Int[Tensor, " image"] | None = None
    templates: tuple[str, ...] = (PLAIN_TEMPLATE,)
    target: str | None = None
    skipped: list[str] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.source):
            raise DataError(f"{self.name}: {len(self.labels)} labels for {len(self.source)} images.")
        if len(self) == 0:
            raise DataError(f"{self.name}: there are no images in it.")
        twice = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
        if twice:
            raise DataError(f"{self.name}: class names must differ, but {twice} occur more than once.")
        if len(self.class_names) < 2:
            raise DataError(f"{self.name}: needs two classes or more, has {list(self.class_names)}.")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            bad = low if low < 0 else high
            raise DataError(f"{self.name}: label {bad} is out of range for {len(self.class_names)} classes.")

    def __len__(self) -> int:
        return len(self.source) if self.indices is None else len(self.indices)

    @property
    def places(self) -> Int[Tensor, " image"]:
        """Where its pictures are in ``source``."""
        return torch.arange(len(self.source)) if self.indices is None else self.indices

    @property
    def own_labels(self) -> Int[Tensor, " image"]:
        """Labels of its pictures, in their order."""
        return self.labels[self.places]

    def class_index(self, name: str) -> int:
        """Index of a class.

        Raises:
            DataError: there is no such class; the message lists similar names.
        """
        return class_place(name, self.class_names, f"{self.name}: ")

    def subset(self, indices: Int[Tensor, " image"]) -> ImageSet:
        """The pictures at these places of this set."""
        return replace(self, indices=self.places[indices], skipped=self.skipped)

    def first(self, n: int | None) -> ImageSet:
        """At most ``n`` pictures, evenly spread over the set so that every class is met."""
        if n is None or n >= len(self):
            return self
        if n < 1:
            raise DataError(f"{self.name}: cannot take {n} images; ask for one or more.")
        return self.subset(torch.linspace(0, len(self) - 1, n).long())

    def split(self, share: float, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Two disjoint parts, the first with ``share`` of every class (at least one picture of each)."""
        generator = torch.Generator().manual_seed(seed)
        labels, first = self.own_labels, []
        for label in labels.unique():
            places = (labels == label).nonzero()[:, 0]
            places = places[torch.randperm(len(places), generator=generator)]
            first.append(places[: max(1, round(share * len(places)))])
        chosen = torch.cat(first).sort().values
        rest = torch.ones(len(self), dtype=torch.bool)
        rest[chosen] = False
        if not rest.any():
            raise DataError(f"{self.name}: {len(self)} images are too few to hold {share:.0%} of each class out.")
        return self.subset(chosen), self.subset(rest.nonzero()[:, 0])

    def batches(self, size: int = BATCH_SIZE) -> Iterator[Batch]:
        """Batches in order; unreadable pictures are left out and listed in :attr:`skipped`."""
        if size < 1:
            raise SettingError(f"The batch size must be 1 or more, not {size}.")
        for chunk in self.places.split(size):
            images, kept = [], []
            for index in chunk.tolist():
                try:
                    images.append(self.source.read(index))
                    kept.append(index)
                except DataError as error:
                    if str(error) not in self.skipped:
                        self.skipped.append(str(error))
            if images:
                places = torch.tensor(kept)
                yield Batch(torch.stack(images), self.labels[places], places)

    def load(self) -> tuple[UInt8[Tensor, "image 3 row column"], Int[Tensor, " image"]]:
        """All readable pictures and their labels in memory.

        Raises:
            DataError: none of them can be read.
        """
        batches = list(self.batches())
        if not batches:
            raise DataError(f"{self.name}: none of the {len(self)} images can be read, e.g. {self.skipped[0]}")
        return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


@dataclass(frozen=True)
class DataSet:
    """The parts of a data set: test pictures, clean held-out ones for means and thresholds, and training ones."""

    test: ImageSet
    held_out: ImageSet
    train: ImageSet | None = None

    def to_learn_from(self, measured: bool = True) -> ImageSet:
        """The training pictures; where there are none, what is held out, or everything if nothing is measured on it."""
        if self.train is not None:
            return self.train
        if measured or self.held_out.source is not self.test.source:
            return self.held_out
        return replace(self.test, indices=torch.cat([self.held_out.places, self.test.places]).sort().values)
