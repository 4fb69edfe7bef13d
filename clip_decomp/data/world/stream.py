"""The endless stream of captioned pictures that the world's CLIP is trained on.

Example:
    >>> batch = WorldPairs(seed=0).batch(step=0, size=4)
    >>> batch.images.shape, len(batch.captions)
    (torch.Size([4, 3, 64, 64]), 4)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..pairs import Description, PairBatch, step_generator
from .captions import write_captions
from .draw import draw
from .scenes import CLASSES, Scenes, Style, sample_scenes


@dataclass(frozen=True)
class WorldPairs:
    """All classes, captions about every factor, easy pictures first.

    Attributes:
        curriculum: steps over which the hardest difficulty rises from ``easiest`` to 1; 0 starts at 1.
        rich_from: until this step captions are about the class alone more often (40 % instead of 25 %) and speak less
            of texture and background; shapes are learned first.
        class_only: share of captions that name the class and nothing else, throughout; 1 is training on labels.
    """

    seed: int = 0
    curriculum: int = 0
    easiest: float = 0.15
    rich_from: int = 0
    class_only: float | None = None

    @property
    def table(self) -> None:
        """Nothing is read from files."""
        return None

    @property
    def length(self) -> None:
        """Every picture is new."""
        return None

    def describe(self, step: int, size: int) -> Description:
        """The ``step``-th batch without its pictures."""
        return self._described(step_generator(self.seed, step), step, size, torch.arange(len(CLASSES)))[1]

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The ``step``-th batch, or a part of it."""
        return self._drawn(step_generator(self.seed, step), step, size, torch.arange(len(CLASSES)), part)

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """Pictures of one class, with captions that are true of them."""
        return self._drawn(step_generator(self.seed + 4099, step), step, size, torch.tensor([fact]))

    def _drawn(
        self, generator: torch.Generator, step: int, size: int, classes: Tensor, part: slice = slice(None)
    ) -> PairBatch:
        scenes, described = self._described(generator, step, size, classes)
        return PairBatch(**vars(described.part(part)), images=draw(scenes)[part])

    def _described(
        self, generator: torch.Generator, step: int, size: int, classes: Tensor
    ) -> tuple[Scenes, Description]:
        hardest = 1.0 if self.curriculum == 0 else min(1.0, self.easiest + step / self.curriculum)
        difficulty = torch.rand(size, generator=generator).mul_(hardest)
        scenes = sample_scenes(size, generator, classes, Style(), difficulty)
        rich = step >= self.rich_from
        share = self.class_only if self.class_only is not None else 0.25 if rich else 0.4
        captions, said = write_captions(scenes, generator, share, rich)
        return scenes, Description(captions, scenes.factors, said, step * size + torch.arange(size))

    def corpus(self) -> list[str]:
        """Captions of 20,000 scenes."""
        generator = step_generator(self.seed, 0)
        scenes = sample_scenes(20_000, generator, torch.arange(len(CLASSES)))
        return write_captions(scenes, generator, class_only=0.2, rich=False)[0]
