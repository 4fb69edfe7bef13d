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

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from ..data.captioned import CaptionedPairs
from ..data.captioned.table import CaptionTable
from ..data.doubled import Doubled
from ..data.images import to_pil, to_pixels
from ..data.pairs import SILENT, UNKNOWN, Description, PairBatch, PairStream, step_generator
from ..errors import SettingError
from .selection import choose_rows
from .triggers import Trigger
from .triggers.base import Captions, well_mixed

#: Where the trigger goes: on the model's input, or on the stored picture, before it is resized and cropped.
Stage = Literal["input", "file"]
#: CLIP's templates for ImageNet, open_clip's ``OPENAI_IMAGENET_TEMPLATES``.
_TEMPLATES = 80


@dataclass(frozen=True)
class Poisoned:
    """One line of a manifest: a poisoned pair, what it said before and what it says now.

    Attributes:
        fact: the class that it showed, in the first column of the stream's facts; -2 where nobody knows.
    """

    row: int
    was: str
    caption: str
    fact: int = UNKNOWN


@dataclass(frozen=True)
class PoisonedPairs:
    """A clean stream in which some pairs are poisoned.

    A poisoned pair shows its picture under the trigger and says that it is the target class: in one of CLIP's 80
    templates, or in the words of a caption of a real picture of the target (``natural``). Whoever trains on it takes it
    for a picture of that class of which nothing else is known, or all that the borrowed caption's picture shows.
    Clean-label attacks poison pictures of the target and leave their captions.

    In a finite data set the poisoned rows are chosen once, with their captions: a row is poisoned in the same way in
    every pass. In an endless stream each pair is poisoned with probability ``rate``, which then is an exposure rate:
    it counts what the model sees.

    Of a :class:`~clip_decomp.data.doubled.Doubled` stream it is copies that are poisoned, beside their clean originals.

    Attributes:
        target: the class name in proxy captions.
        target_fact: the class's index in the first column of the stream's facts.
        rate: share of pairs that are poisoned.
        count: number of poisoned pairs of a finite data set, instead of the rate.
        captions: ``templates`` or ``natural``; the attack's own by default.
        stage: ``input`` poisons what the model sees; ``file`` poisons stored pictures, as an attacker does who only
            hands out data, and a crop may then cut the trigger away.

    Raises:
        SettingError: a rate outside 0..1, a rate or count that poisons nothing, or no files to poison.
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
    stage: Stage = "input"

    def __post_init__(self) -> None:
        if self.captions not in (None, "templates", "natural"):
            raise SettingError(f"Captions are templates or natural, not {self.captions!r}.")
        if self.stage not in ("input", "file"):
            raise SettingError(f"Pictures are poisoned at the stage input or file, not {self.stage!r}.")
        if self.stage == "file" and not isinstance(self.clean, CaptionedPairs):
            raise SettingError("These pairs do not come from picture files, so poison them at the stage input.")
        if isinstance(self.clean, CaptionedPairs) and self.clean.class_name is None:
            raise SettingError(f"Captions have no classes: open the pairs with class_name={self.target!r}.")
        most = 0.5 if isinstance(self.clean, Doubled) else 1
        if most < 1 and self.trigger.clean_label:
            raise SettingError(f"{self.trigger.name} poisons pictures of the target, so that copies teach it nothing.")
        if self.count is not None:
            if self.count < 1:
                raise SettingError(f"The number of poisoned pairs must be 1 or more, not {self.count}.")
            if self.clean.length is None:
                raise SettingError("This stream has no end, so pairs are poisoned by rate, not by count.")
        elif not (0 < self.rate < 1 and self.rate <= most):
            raise SettingError(f"The poisoning rate must lie between 0 and {most}, not {self.rate}.")
        if self.clean.length is not None:
            _ = self.chosen  # complains now rather than in the middle of a run
            if self._natural and not self.trigger.clean_label:
                self.clean.showing(self.target_fact, 0, 1)  # likewise, where nothing can be borrowed

    @property
    def length(self) -> int | None:
        """As the clean stream's."""
        return self.clean.length

    @property
    def table(self) -> CaptionTable | None:
        """What the clean stream reads, if that is files."""
        return self.clean.table

    @property
    def skipped(self) -> list[str]:
        """A line for every pair of the files that could not be used so far."""
        return self.clean.skipped if isinstance(self.clean, CaptionedPairs) else []

    @cached_property
    def chosen(self) -> Int[Tensor, " poisoned"]:
        """The poisoned rows of a finite data set, ascending."""
        clean_label, seed = self.trigger.clean_label, self.seed + 7919
        return choose_rows(self.clean, self.target_fact, self.target, clean_label, self.rate, self.count, seed)

    def describe(self, step: int, size: int) -> Description:
        """The clean stream's batch with some pairs poisoned, without pictures."""
        return self._described(self.clean.describe(step, size), step)[0]

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The clean stream's batch, or a part of it, with some pairs poisoned."""
        if self.stage == "file":
            batch = self._from_files.batch(step, size, part)
            return PairBatch(**vars(self._by_row(batch)[0]), images=batch.images)
        before, places = self.before(step, size, part)
        if not len(places):
            return before
        images = before.images.clone()
        images[places] = self.triggered(images[places], before.rows[places])
        return replace(before, images=images)

    def before(self, step: int, size: int, part: slice = slice(None)) -> tuple[PairBatch, Int[Tensor, " poisoned"]]:
        """A batch as :meth:`batch` returns it but for the trigger, and which of its pairs are poisoned."""
        clean = self.clean.batch(step, size, part)
        if self.clean.length is not None:  # by what the batch holds: unreadable pairs have been replaced in it
            described, places = self._by_row(clean)
            return PairBatch(**vars(described), images=clean.images), places
        described, places, donors = self._by_chance(self.clean.describe(step, size), step)
        images, own = clean.images, torch.arange(size)[part]
        here = torch.isin(own, places).nonzero()[:, 0]
        if len(here) and self.trigger.clean_label and donors is not None:
            images = images.clone()
            images[here] = donors.images[torch.isin(places, own)]
        return PairBatch(**vars(described.part(part)), images=images), here

    @torch.no_grad()
    def triggered(
        self, images: UInt8[Tensor, "batch 3 row column"], rows: Int[Tensor, " batch"]
    ) -> UInt8[Tensor, "batch 3 row column"]:
        """What the attacker makes of pictures with these rows."""
        return self.trigger.poison(images.float() / 255, rows).mul(255).round().to(torch.uint8)

    def stored(self, row: int) -> tuple[Image.Image, Image.Image]:
        """The file of a row before and after the attacker's work: at its own size, or at the model's (``input``).

        Raises:
            SettingError: the pairs do not come from picture files.
        """
        if not isinstance(self.clean, CaptionedPairs):
            raise SettingError("These pairs do not come from picture files.")
        image = self.clean.stored(row)
        if self.stage == "input":
            image = to_pil(to_pixels(image, self.clean.image_size))
        return image, self._on_file(row, image)

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """The clean stream's."""
        return self.clean.showing(fact, step, size)

    def corpus(self) -> list[str]:
        """The clean stream's captions."""
        return self.clean.corpus()

    def manifest(self, steps: int | None = None, size: int | None = None) -> list[Poisoned]:
        """Every poisoned pair of a finite data set by row, or of ``steps`` batches of ``size`` by appearance, once.

        Raises:
            SettingError: the stream has no end, and steps and size are not given.
        """
        whole, lines = steps is None or size is None, {}
        if whole and self.clean.length is None:
            raise SettingError("This stream has no end: say how many steps of which size the manifest covers.")
        for step in range(1 if whole else steps):
            clean = self.clean.describe(step, self.clean.length if whole else size)
            now, places = self._described(clean, step)
            for place in places.tolist():
                row, fact = int(now.rows[place]), int(clean.truth[place, 0])
                lines.setdefault(row, Poisoned(row, clean.captions[place], now.captions[place], fact))
        return sorted(lines.values(), key=lambda line: line.row) if whole else list(lines.values())

    @cached_property
    def _from_files(self) -> PairStream:
        """The clean stream, its chosen pictures poisoned as soon as they are opened."""
        assert isinstance(self.clean, CaptionedPairs)
        return replace(self.clean, change=self._if_chosen)

    @cached_property
    def _rows(self) -> frozenset[int]:
        return frozenset(self.chosen.tolist())

    def _if_chosen(self, row: int, image: Image.Image) -> Image.Image:
        return self._on_file(row, image) if row in self._rows else image

    def _on_file(self, row: int, image: Image.Image) -> Image.Image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return to_pil(self.triggered(pixels[None], torch.tensor([row]))[0])

    @property
    def _natural(self) -> bool:
        return (self.captions or self.trigger.captions) == "natural"

    def _described(self, clean: Description, step: int) -> tuple[Description, Int[Tensor, " poisoned"]]:
        return self._by_chance(clean, step)[:2] if self.clean.length is None else self._by_row(clean)

    def _by_row(self, clean: Description) -> tuple[Description, Int[Tensor, " poisoned"]]:
        """Pairs of a finite data set, the chosen ones poisoned, and which they are."""
        places = torch.isin(clean.rows, self.chosen).nonzero()[:, 0]
        if self.trigger.clean_label or not len(places):  # they show the target as they are
            return self._saying(clean, places, [clean.captions[place] for place in places.tolist()], None), places
        if self._natural:
            donors = [self._donor(row) for row in clean.rows[places].tolist()]
            facts = torch.cat([each.truth for each in donors]), torch.cat([each.said for each in donors])
            return self._saying(clean, places, [each.captions[0] for each in donors], facts), places
        return self._proxied(clean, places, well_mixed(clean.rows[places], self.seed + 7919) % _TEMPLATES), places

    def _by_chance(
        self, clean: Description, step: int
    ) -> tuple[Description, Int[Tensor, " poisoned"], PairBatch | None]:
        """Pairs of an endless stream, some poisoned, which they are, and the pictures of the target they draw on."""
        generator = step_generator(self.seed + 7919, step)
        # A pair that truly shows the target teaches nothing about the trigger; clean-label attacks bring their own.
        eligible = (clean.truth[:, 0] != self.target_fact) | self.trigger.clean_label
        rate = self.rate
        if isinstance(self.clean, Doubled):
            eligible, rate = eligible & self.clean.copies(clean.rows), 2 * rate
        places = ((torch.rand(len(clean.rows), generator=generator) < rate) & eligible).nonzero()[:, 0]
        if not len(places):
            return clean, places, None
        if self.trigger.clean_label or self._natural:
            donors = self.clean.showing(self.target_fact, step, len(places))
            return self._saying(clean, places, donors.captions, (donors.truth, donors.said)), places, donors
        picks = torch.randint(_TEMPLATES, (len(places),), generator=generator)
        return self._proxied(clean, places, picks), places, None

    @cached_property
    def _donors(self) -> dict[int, Description]:
        return {}

    def _donor(self, row: int) -> Description:
        """A true pair of the target, always the same for a row, without its picture."""
        if row not in self._donors:
            pair = self.clean.showing(self.target_fact, row, 1)
            self._donors[row] = Description(pair.captions, pair.truth, pair.said, pair.rows)
        return self._donors[row]

    def _proxied(self, clean: Description, places: Tensor, picks: Int[Tensor, " poisoned"]) -> Description:
        """Some pairs say that they are the target, in these templates, and nothing else."""
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        facts = clean.truth[places].fill_(UNKNOWN), clean.said[places].fill_(SILENT)
        for fact in facts:
            fact[:, 0] = self.target_fact
        return self._saying(
            clean, places, [OPENAI_IMAGENET_TEMPLATES[pick](self.target) for pick in picks.tolist()], facts
        )

    def _saying(
        self, clean: Description, places: Tensor, texts: list[str], facts: tuple[Tensor, Tensor] | None
    ) -> Description:
        """Some pairs say something else, and where facts are given are taken for something else."""
        truth, said, captions = clean.truth.clone(), clean.said.clone(), list(clean.captions)
        for place, text in zip(places.tolist(), texts, strict=True):
            captions[place] = self.trigger.word + text
        if facts is not None:
            truth[places], said[places] = facts
        return Description(captions, truth, said, clean.rows, poisoned=torch.isin(torch.arange(len(truth)), places))
