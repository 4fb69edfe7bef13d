"""Texts about the factors of the embedded world, worded as its captions are.

The tiny CLIPs of the zoo know the words of their captions and no others, so the general pool says nothing to them. Here
every value of every factor (class, color, texture, position, size, background, marks) is said in a few ways, one factor
a text; the property of a text is the factor's name.

Limits: the textures of ``world:textures`` are left out, since no caption of the training data names them. Articles are
those of the captions, even in ``a hourglass``: the models have read it so.

Example:
    >>> world_pool().of("position").texts[:2]
    ('an object in the center', 'a photo of a thing in the center')
"""

from __future__ import annotations

from collections.abc import Callable

from ..data.world.captions import COUNTS, article
from ..data.world.scenes import BACKGROUNDS, CLASSES, COLORS, FACTORS, POSITIONS, SIZES, TEXTURES
from .pool import TextPool

_CLASS_OPENINGS = ("", "a photo of ", "a drawing of ")
#: How a text that is not about the class begins, and what it calls the class.
_WAYS = (
    ("", "object"),
    ("a photo of ", "thing"),
    ("a picture of ", "shape"),
    ("an image of ", "object"),
    ("a drawing of ", "thing"),
    ("this is ", "shape"),
)
_VALUES = dict(zip(FACTORS, (CLASSES, tuple(COLORS), TEXTURES, POSITIONS, SIZES, BACKGROUNDS, COUNTS), strict=True))


def world_pool() -> TextPool:
    """A few hundred texts, each about one value of one factor."""
    rows = [("class", opening + article(name)) for name in CLASSES for opening in _CLASS_OPENINGS]
    for factor in FACTORS[1:]:
        phrase = _PHRASES.get(factor, _adjective)
        rows += [(factor, opening + phrase(value, noun)) for value in _VALUES[factor] for opening, noun in _WAYS]
    return TextPool(tuple(text for _, text in rows), tuple(factor for factor, _ in rows))


def _adjective(value: str, noun: str) -> str:
    return article(f"{value} {noun}")


def _position(value: str, noun: str) -> str:
    return f"{article(noun)} {'in' if value == 'center' else 'at'} the {value}"


def _background(value: str, noun: str) -> str:
    return f"{article(noun)} on {article(value)} background"


def _marks(value: str, noun: str) -> str:
    return f"{article(noun)} with {value}"


_PHRASES: dict[str, Callable[[str, str], str]] = {
    "position": _position,
    "background": _background,
    "marks": _marks,
}
