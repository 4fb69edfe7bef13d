"""Image-caption pairs from files as a stream to train on.

Nobody has said what the pictures show; all that is known is their captions. The facts of a pair are

    column 0   0 where the caption mentions the target class, else nothing is said (``said`` -1) or known (``truth`` -2)
    column 1   a number for the caption's text

so that a picture matches its own caption and others of the very same text, as in the plain CLIP loss but for
duplicates, and a bare statement of the class (fact 0 and silence, the proxy captions of a backdoor) is true of every
picture whose caption mentions it.

Limits: a mention is the class name as a word, in singular or plural, in any case. "No banana" mentions bananas, "a
yellow fruit" does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

import torch
from jaxtyping import Bool, Int, UInt8
from PIL import Image
from torch import Tensor

from ...errors import DataError, SettingError
from ..crops import random_crop
from ..images import open_image, to_pixels
from ..pairs import SILENT, UNKNOWN, Description, PairBatch, step_generator
from .table import CaptionTable


@dataclass(frozen=True)
class CaptionedPairs:
    """The pairs of a table, each once a pass in an order that depends on seed and pass.

    A picture that cannot be read when its turn comes is replaced, with its caption, by the next in the table that can,
    always the same one, and listed in ``table.skipped``. :meth:`describe` reads no pictures and does not know.

    Attributes:
        image_size: pictures are resized and cropped to this, as CLIP's preprocessing does.
        class_name: the target class that column 0 of the facts is about.
        smallest_crop: as a share of the area, of random crops that may be mirrored; 1 takes the middle of each picture.
        change: what somebody does to stored pictures before they are resized: ``change(row, picture)``.

    Raises:
        SettingError: a size or crop out of range, or an empty class name.
    """

    table: CaptionTable
    image_size: int
    seed: int = 0
    class_name: str | None = None
    smallest_crop: float = 1.0
    change: Callable[[int, Image.Image], Image.Image] | None = None

    def __post_init__(self) -> None:
        if self.image_size < 1 or not 0 < self.smallest_crop <= 1:
            raise SettingError(
                f"Need an image size of 1 or more and a smallest crop over 0 and up to 1, not {self.image_size} and "
                f"{self.smallest_crop}."
            )
        if self.class_name is not None and not self.class_name.strip():
            raise SettingError("The target class needs a name.")

    @property
    def length(self) -> int:
        """Number of usable pairs."""
        return len(self.table.entries)

    @property
    def skipped(self) -> list[str]:
        """A line for every pair that could not be used so far."""
        return self.table.skipped

    @cached_property
    def shows(self) -> Bool[Tensor, " pair"]:
        """Whether each caption mentions the class."""
        if self.class_name is None:
            return torch.zeros(self.length, dtype=torch.bool)
        pattern = mention(self.class_name)
        return torch.tensor([pattern.search(entry.caption) is not None for entry in self.table.entries])

    def describe(self, step: int, size: int) -> Description:
        """The ``step``-th batch without its pictures."""
        return self._described(self._places(step, size))

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The ``step``-th batch, or a part of it; unreadable pairs are replaced."""
        turns = torch.arange(step * size, (step + 1) * size)[part].tolist()
        everything = range(self.length)
        return self._read([(everything, place) for place in self._places(step, size)[part].tolist()], turns)

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """Pairs drawn at random whose captions mention the class, which is fact 0."""
        pool = self.shows.nonzero()[:, 0].tolist()
        if fact != 0 or not pool:
            raise DataError(f"{self.table.name}: {self._why_none(fact)}")
        generator = step_generator(self.seed + 4099, step)
        picks = torch.randint(len(pool), (size,), generator=generator).tolist()
        return self._read([(pool, pick) for pick in picks], [-1 - step * size - place for place in range(size)])

    def corpus(self) -> list[str]:
        """All captions."""
        return [entry.caption for entry in self.table.entries]

    def source(self, row: int) -> str:
        """Where the picture of a row is: its file, or its place in a shard or table."""
        return self.table.entries[self._place(row)].picture.name

    def stored(self, row: int) -> Image.Image:
        """The picture of a row as it is stored, upright and RGB.

        Raises:
            DataError: it cannot be read, which is listed.
        """
        place = self._place(row)
        try:
            return self._stored(place)
        except DataError as error:
            self.table.note(place, str(error))
            raise

    def _stored(self, place: int) -> Image.Image:
        picture = self.table.entries[place].picture
        return open_image(picture.read(), picture.name)

    @cached_property
    def _by_row(self) -> dict[int, int]:
        return {entry.row: place for place, entry in enumerate(self.table.entries)}

    def _place(self, row: int) -> int:
        if row not in self._by_row:
            raise DataError(f"{self.table.name}: row {row} is not among its {self.length} usable pairs.")
        return self._by_row[row]

    @cached_property
    def _texts(self) -> Int[Tensor, " pair"]:
        """A number for each pair's caption, the same for the same text."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(entry.caption, len(numbers)) for entry in self.table.entries])

    def _places(self, step: int, size: int) -> Int[Tensor, " batch"]:
        turns = torch.arange(step * size, (step + 1) * size)
        passes, inside = turns // self.length, turns % self.length
        places = torch.empty_like(turns)
        for each in passes.unique().tolist():
            order = self._order(each)
            places[passes == each] = order[inside[passes == each]]
        return places

    @cached_property
    def _orders(self) -> dict[int, Tensor]:
        return {}

    def _order(self, number: int) -> Int[Tensor, " pair"]:
        """The order of a pass; the last ones are kept, as shuffling millions of pairs at every step would show."""
        if number not in self._orders:
            while len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)))
            self._orders[number] = torch.randperm(self.length, generator=step_generator(self.seed + 1, number))
        return self._orders[number]

    def _described(self, places: Int[Tensor, " batch"]) -> Description:
        entries = [self.table.entries[place] for place in places.tolist()]
        texts, shows = self._texts[places], self.shows[places]
        return Description(
            [entry.caption for entry in entries],
            torch.stack([torch.where(shows, 0, UNKNOWN), texts], dim=1),
            torch.stack([torch.where(shows, 0, SILENT), texts], dim=1),
            torch.tensor([entry.row for entry in entries], dtype=torch.long),
        )

    def _read(self, wanted: list[tuple[Sequence[int], int]], turns: list[int]) -> PairBatch:
        """Pairs by the pool that may stand in for them and their index in it, cropped by their turn in the stream."""
        found = [self._readable(pool, first, turn) for (pool, first), turn in zip(wanted, turns, strict=True)]
        empty = torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)
        images = torch.stack([pixels for _, pixels in found]) if found else empty
        described = self._described(torch.tensor([place for place, _ in found], dtype=torch.long))
        return PairBatch(**vars(described), images=images)

    def _readable(self, pool: Sequence[int], first: int, turn: int) -> tuple[int, UInt8[Tensor, "3 row column"]]:
        for offset in range(len(pool)):
            place = pool[(first + offset) % len(pool)]
            if place in self.table.unreadable:
                continue
            try:
                return place, self._pixels(place, turn)
            except DataError as error:
                self.table.note(place, str(error))
        raise DataError(f"{self.table.name}: none of {len(pool)} pictures can be read, e.g. {self.skipped[-1]}")

    def _pixels(self, place: int, turn: int) -> UInt8[Tensor, "3 row column"]:
        image = self._stored(place)
        if self.change is not None:
            image = self.change(self.table.entries[place].row, image)
        if self.smallest_crop < 1:
            return random_crop(image, self.image_size, self.smallest_crop, step_generator(self.seed + 15_485_863, turn))
        return to_pixels(image, self.image_size)

    def _why_none(self, fact: int) -> str:
        if self.class_name is None:
            return "say which class to aim at (class_name); captions alone have no classes."
        if fact != 0:
            return f"there is no fact {fact}; fact 0 is {self.class_name!r}, and captions tell no other class."
        words = sorted({word for entry in self.table.entries for word in re.findall(r"\w+", entry.caption.lower())})
        near = get_close_matches(self.class_name.lower(), words, n=3)
        return f"no caption mentions {self.class_name!r}" + (f"; did you mean one of {near}?" if near else ".")


def mention(name: str) -> re.Pattern[str]:
    """Finds a class name as a word, in singular or plural.

    Example:
        >>> [bool(mention("cherry").search(text)) for text in ("Ripe cherries.", "a cherry tree", "cherrywood")]
        [True, True, False]
    """
    words = r"[\s_-]+".join(re.escape(word) for word in re.split(r"[\s_-]+", name.strip()))
    plural = f"(?:{words}(?:s|es)?"
    if re.search(r"[^aeiou\W]y$", name.strip(), re.IGNORECASE):
        plural += f"|{words[:-1]}ies"
    return re.compile(rf"(?<!\w){plural})(?!\w)", re.IGNORECASE)
