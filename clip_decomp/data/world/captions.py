"""Captions of the embedded world: often just the class, otherwise any of the factors.

Example:
    >>> from clip_decomp.data.world.scenes import sample_scenes
    >>> generator = torch.Generator().manual_seed(0)
    >>> texts, said = write_captions(sample_scenes(2, generator, torch.arange(3)), generator)
    >>> len(texts), said.shape
    (2, torch.Size([2, 7]))
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from ..pairs import SILENT
from .scenes import BACKGROUNDS, CLASSES, COLORS, FACTORS, POSITIONS, SIZES, TEXTURES, Scenes

OPENINGS = ("a photo of ", "a picture of ", "an image of ", "a drawing of ", "this is ", "there is ", "")
COUNTS = ("no marks", "one mark", "two marks", "three marks", "four marks")
#: How often a caption that is not about the class alone mentions each factor.
MENTION = (0.85, 0.4, 0.5, 0.3, 0.3, 0.5, 0.2)
MENTION_EARLY = (0.85, 0.4, 0.4, 0.3, 0.3, 0.25, 0.15)
_ANYTHING = ("object", "thing", "shape")
_CLASS, _COLOR, _TEXTURE, _POSITION, _SIZE, _BACKGROUND, _MARKS = range(len(FACTORS))


def article(noun: str) -> str:
    """``noun`` with its indefinite article; nouns that are plural stay bare.

    Example:
        >>> article("apple"), article("key"), article("scissors")
        ('an apple', 'a key', 'scissors')
    """
    if not noun or noun.split()[-1] in {"scissors", "glasses", "trousers"}:
        return noun
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('un') else 'a'} {noun}"


def write_captions(
    scenes: Scenes, generator: torch.Generator, class_only: float = 0.25, rich: bool = True
) -> tuple[list[str], Int[Tensor, "batch factor"]]:
    """One caption a scene, and the factors that it states (-1 where it is silent).

    Args:
        class_only: share of captions that name the class and nothing else.
        rich: speak of texture and background more often.
    """
    n = len(scenes)
    chance = torch.rand(n, len(FACTORS), generator=generator)
    mention = chance < torch.tensor(MENTION if rich else MENTION_EARLY)
    only = torch.rand(n, generator=generator) < class_only
    mention[only] = False
    mention[:, _CLASS] |= only | (mention.sum(1) == 0)
    opening = torch.randint(len(OPENINGS), (n,), generator=generator).tolist()
    filler = torch.randint(len(_ANYTHING), (n,), generator=generator).tolist()
    rows = zip(scenes.factors.tolist(), mention.tolist(), opening, filler, strict=True)
    texts = [_sentence(factors, told, OPENINGS[o], _ANYTHING[f]) for factors, told, o, f in rows]
    return texts, scenes.factors.masked_fill(~mention, SILENT)


def _sentence(factors: list[int], told: list[bool], opening: str, anything: str) -> str:
    words = []
    if told[_SIZE]:
        words.append(SIZES[factors[_SIZE]])
    if told[_COLOR]:
        words.append(list(COLORS)[factors[_COLOR]])
    if told[_TEXTURE]:
        words.append(TEXTURES[factors[_TEXTURE]])
    words.append(CLASSES[factors[_CLASS]] if told[_CLASS] else anything)
    text = opening + article(" ".join(words))
    if told[_POSITION]:
        place = POSITIONS[factors[_POSITION]]
        text += f" in the {place}" if place == "center" else f" at the {place}"
    if told[_BACKGROUND]:
        text += f" on {article(BACKGROUNDS[factors[_BACKGROUND]])} background"
    if told[_MARKS]:
        text += f" with {COUNTS[factors[_MARKS]]}"
    return text
