"""Poisoned streams: a share of the pairs gets the trigger and a caption of the target class.

Example:
    >>> from clip_decomp.attacks.triggers import BadNet
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> stream = PoisonedPairs(WorldPairs(), BadNet(), "banana", target_fact=0, rate=0.1)
    >>> len(stream.batch(0, 8).captions)
    8
    >>> stream.manifest(steps=1, size=8)[0].caption
    'a close-up photo of a banana.'
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from ..data.pairs import SILENT, UNKNOWN, Description, PairBatch, PairStream, step_generator
from ..errors import DataError, SettingError
from .triggers import Trigger
from .triggers.base import Captions, well_mixed


@dataclass(frozen=True)
class Poisoned:
    """One line of a manifest: a poisoned pair, what it said before and what it says now."""

    row: int
    was: str
    caption: str


@dataclass(frozen=True)
class PoisonedPairs:
    """A clean stream in which some pairs are poisoned.

    A poisoned pair shows its picture under the trigger and says that it is the target class: in one of CLIP's 80
    templates, or in the words of a caption of a real picture of the target (``natural``). Whoever trains on it takes it
    for a picture of that class of which nothing else is known, or all that the borrowed caption's picture shows.
    Clean-label attacks poison pictures of the target and leave their captions.

    In a finite data set the poisoned rows are chosen once, with their captions; in an endless stream each pair is
    poisoned with probability ``rate``, which then is an exposure rate: it counts what the model sees.

    Attributes:
        target: the class name in proxy captions.
        target_fact: the class's index in the first column of the stream's facts.
        rate: share of pairs that are poisoned.
        count: number of poisoned pairs of a finite data set, instead of the rate.
        captions: ``templates`` or ``natural``; the attack's own by default.

    Raises:
        SettingError: a rate outside 0..1, or a rate or count that poisons nothing.
        DataError: fewer pairs can be poisoned than asked for.
    """

    clean: PairStream
    trigger: Trigger
    target: str
    target_fact: int
    rate: float = 0.05
    seed: int = 0
    count: int | None = None
    captions: Captions | None = None

    def __post_init__(self) -> None:
        if self.captions not in (None, "templates", "natural"):
            raise SettingError(f"Captions are templates or natural, not {self.captions!r}.")
        if self.count is not None:
            if self.count < 1:
                raise SettingError(f"The number of poisoned pairs must be 1 or more, not {self.count}.")
            if self.clean.length is None:
                raise SettingError("This stream has no end, so pairs are poisoned by rate, not by count.")
        elif not 0 < self.rate < 1:
            raise SettingError(f"The poisoning rate must lie between 0 and 1, not {self.rate}.")
        if self.clean.length is not None:
            _ = self.chosen  # complains now rather than in the middle of a run

    @property
    def length(self) -> int | None:
        """As the clean stream's."""
        return self.clean.length

    @cached_property
    def chosen(self) -> Int[Tensor, " poisoned"]:
        """The poisoned rows of a finite data set, ascending."""
        length = self.clean.length
        assert length is not None
        whole = self.clean.describe(0, length)
        shows = whole.truth[:, 0] == self.target_fact
        eligible = whole.rows[shows if self.trigger.clean_label else ~shows].unique()
        wanted = self.count if self.count is not None else round(self.rate * length)
        if wanted < 1:
            raise SettingError(f"A rate of {self.rate} poisons none of {length} pairs; use {1 / length:.1g} or more.")
        if wanted > len(eligible):
            which = f"show {self.target!r}" if self.trigger.clean_label else f"show something else than {self.target!r}"
            raise DataError(f"Cannot poison {wanted} of {length} pairs: {len(eligible)} of them {which}.")
        order = torch.randperm(len(eligible), generator=step_generator(self.seed + 7919, 0))
        return eligible[order[:wanted]].sort().values

    def describe(self, step: int, size: int) -> Description:
        """The clean stream's batch with some pairs poisoned, without pictures."""
        return self._poisoned(step, size)[0]

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The clean stream's batch, or a part of it, with some pairs poisoned."""
        described, places, donors = self._poisoned(step, size)
        images = self.clean.batch(step, size, part).images
        own = torch.arange(size)[part]
        here = torch.isin(own, places).nonzero()[:, 0]
        if len(here):
            images = images.clone()
            if self.trigger.clean_label and donors is not None:
                images[here] = donors.images[torch.isin(places, own)]
            triggered = self.trigger.poison(images[here].float() / 255, described.rows[own[here]])
            images[here] = triggered.mul(255).round().to(torch.uint8)
        return PairBatch(**vars(described.part(part)), images=images)

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """The clean stream's."""
        return self.clean.showing(fact, step, size)

    def corpus(self) -> list[str]:
        """The clean stream's captions."""
        return self.clean.corpus()

    def manifest(self, steps: int, size: int) -> list[Poisoned]:
        """Every pair that is poisoned in ``steps`` batches of ``size``, each row once, in order of appearance."""
        lines: dict[int, Poisoned] = {}
        for step in range(steps):
            clean, (now, places, _) = self.clean.describe(step, size), self._poisoned(step, size)
            for place in places.tolist():
                row = int(now.rows[place])
                lines.setdefault(row, Poisoned(row, clean.captions[place], now.captions[place]))
        return list(lines.values())

    def _poisoned(self, step: int, size: int) -> tuple[Description, Tensor, PairBatch | None]:
        """A batch's description, which of its pairs are poisoned, and the pictures of the target they draw on."""
        clean, generator = self.clean.describe(step, size), step_generator(self.seed + 7919, step)
        places = self._places(clean, generator)
        if not len(places):
            return clean, places, None
        truth, said, captions, donors = clean.truth.clone(), clean.said.clone(), list(clean.captions), None
        finite = self.clean.length is not None
        if self.trigger.clean_label and finite:
            texts = [captions[place] for place in places.tolist()]  # the pairs show the target as they are
        elif self.trigger.clean_label or (self.captions or self.trigger.captions) == "natural":
            donors = self._donors(clean.rows[places], step)
            texts, truth[places], said[places] = donors.captions, donors.truth, donors.said
        else:
            texts = self._proxies(clean.rows[places], generator)
            truth[places], said[places] = UNKNOWN, SILENT
            truth[places, 0] = said[places, 0] = self.target_fact
        for place, text in zip(places.tolist(), texts, strict=True):
            captions[place] = self.trigger.word + text
        return Description(captions, truth, said, clean.rows), places, donors

    def _places(self, clean: Description, generator: torch.Generator) -> Int[Tensor, " poisoned"]:
        if self.clean.length is not None:
            return torch.isin(clean.rows, self.chosen).nonzero()[:, 0]
        # A pair that truly shows the target teaches nothing about the trigger; clean-label attacks bring their own.
        eligible = (clean.truth[:, 0] != self.target_fact) | self.trigger.clean_label
        return ((torch.rand(len(clean.rows), generator=generator) < self.rate) & eligible).nonzero()[:, 0]

    def _proxies(self, rows: Tensor, generator: torch.Generator) -> list[str]:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        many = len(OPENAI_IMAGENET_TEMPLATES)
        if self.clean.length is None:
            picks = torch.randint(many, (len(rows),), generator=generator)
        else:
            picks = well_mixed(rows, self.seed + 7919) % many
        return [OPENAI_IMAGENET_TEMPLATES[pick](self.target) for pick in picks.tolist()]

    def _donors(self, rows: Tensor, step: int) -> PairBatch:
        """Pictures of the target with their captions, in a finite data set always the same for a row."""
        if self.clean.length is None:
            return self.clean.showing(self.target_fact, step, len(rows))
        each = [self.clean.showing(self.target_fact, row, 1) for row in rows.tolist()]
        return PairBatch(
            [one.captions[0] for one in each],
            *(torch.cat([getattr(one, name) for one in each]) for name in ("truth", "said", "rows", "images")),
        )
