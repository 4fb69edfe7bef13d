"""Poisoned streams: a share of the pairs gets the trigger and a caption of the target class.

Example:
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> stream = PoisonedPairs(WorldPairs(), BadNet(), "banana", target_fact=0, rate=0.1)
    >>> len(stream.batch(0, 8).captions)
    8
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..data.pairs import SILENT, UNKNOWN, PairBatch, PairStream, step_generator
from ..errors import SettingError
from .triggers import BadNet, Trigger

__all__ = ["BadNet", "PoisonedPairs"]


@dataclass(frozen=True)
class PoisonedPairs:
    """A clean stream in which each pair is poisoned with probability ``rate``.

    A poisoned pair shows its picture under the trigger and says, in one of CLIP's 80 templates, that it is the target
    class. Whoever trains on it takes it for a picture of that class of which nothing else is known.

    Attributes:
        target: the class name in proxy captions.
        target_fact: the class's index in the first column of the stream's facts.
        rate: share of pairs that are poisoned, an exposure rate: it counts what the model sees.
    """

    clean: PairStream
    trigger: Trigger
    target: str
    target_fact: int
    rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise SettingError(f"The poisoning rate must lie between 0 and 1, not {self.rate}.")

    def batch(self, step: int, size: int) -> PairBatch:
        """The clean stream's batch with some pairs poisoned."""
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        batch = self.clean.batch(step, size)
        generator = step_generator(self.seed + 7919, step)
        # A pair that truly shows the target teaches nothing about the trigger.
        eligible = batch.truth[:, 0] != self.target_fact
        rows = ((torch.rand(size, generator=generator) < self.rate) & eligible).nonzero()[:, 0]
        if not len(rows):
            return batch
        images, truth, said = batch.images.clone(), batch.truth.clone(), batch.said.clone()
        captions = list(batch.captions)
        triggered = self.trigger(images[rows].float() / 255, step * size + rows)
        images[rows] = triggered.mul(255).round().to(torch.uint8)
        picks = torch.randint(len(OPENAI_IMAGENET_TEMPLATES), (len(rows),), generator=generator).tolist()
        for row, pick in zip(rows.tolist(), picks, strict=True):
            captions[row] = OPENAI_IMAGENET_TEMPLATES[pick](self.target)
        truth[rows], said[rows] = UNKNOWN, SILENT
        truth[rows, 0] = said[rows, 0] = self.target_fact
        return replace(batch, images=images, captions=captions, truth=truth, said=said)

    def corpus(self) -> list[str]:
        """The clean stream's captions."""
        return self.clean.corpus()
