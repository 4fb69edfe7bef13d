"""The world's data sets: a main set, two transfer sets with targets of their own, and four shifts of the main set.

=================  ======================================================================
``world``          26 classes, *banana* the target
``world:tools``    20 classes that people use; target ``hammer``
``world:town``     20 classes of vehicles, clothes and buildings; target ``castle``
``world:resampled``  the main set drawn again from other seeds, a little harder (as ImageNet-V2 is)
``world:outlines``   outlines only (as ImageNet-Sketch)
``world:textures``   textures never seen in training (as ImageNet-R)
``world:hard``       the hardest pictures: clutter, rotation, noise, low contrast (as ImageNet-A)
=================  ======================================================================

Example:
    >>> data = world_set("world:tools", test=40, held_out=20)
    >>> len(data.test), data.test.target
    (40, 'hammer')
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ...errors import DataError
from ..sets import DataSet, ImageSet, TensorSource
from .draw import draw
from .scenes import CLASSES, Scenes, Style, sample_scenes

MAIN, TOOLS, TOWN = slice(0, 26), slice(26, 46), slice(46, 66)


@dataclass(frozen=True)
class _Recipe:
    classes: slice
    style: Style
    target: str
    seed: int


RECIPES: dict[str, _Recipe] = {
    "world": _Recipe(MAIN, Style(0.5), "banana", 1),
    "world:tools": _Recipe(TOOLS, Style(0.5), "hammer", 2),
    "world:town": _Recipe(TOWN, Style(0.5), "castle", 3),
    "world:resampled": _Recipe(MAIN, Style(0.6), "banana", 4),
    "world:outlines": _Recipe(MAIN, Style(0.5, outlines=True), "banana", 5),
    "world:textures": _Recipe(MAIN, Style(0.5, foreign_textures=True), "banana", 6),
    "world:hard": _Recipe(MAIN, Style(1.0), "banana", 7),
}
_SPLITS = {"test": 0, "held_out": 1, "train": 2}


def world_scenes(name: str, split: str, n: int, seed: int = 0) -> Scenes:
    """The ground truth of a split's pictures.

    Raises:
        DataError: no such set or split.
    """
    if name not in RECIPES:
        raise DataError(f"The embedded world has no set {name!r}: choose from {list(RECIPES)}.")
    if split not in _SPLITS:
        raise DataError(f"{name}: there is no split {split!r}: choose from {list(_SPLITS)}.")
    recipe = RECIPES[name]
    # Splits of evaluation sets use seeds of their own, far from those of training streams.
    generator = torch.Generator().manual_seed(10**12 + 1000 * seed + 10 * recipe.seed + _SPLITS[split])
    return sample_scenes(n, generator, torch.arange(len(CLASSES))[recipe.classes], recipe.style)


@lru_cache(maxsize=16)
def world_split(name: str, split: str, n: int, seed: int = 0) -> ImageSet:
    """One split as labelled pictures, drawn now; the result is cached and must not be written to."""
    if n < 1:
        raise DataError(f"{name}: cannot draw {n} pictures; ask for one or more.")
    scenes = world_scenes(name, split, n, seed)
    recipe = RECIPES[name]
    chunks = [draw(part) for part in _chunks(scenes)]
    return ImageSet(
        name,
        CLASSES[recipe.classes],
        scenes.factors[:, 0] - recipe.classes.start,
        TensorSource(torch.cat(chunks)),
        target=recipe.target,
    )


def world_set(name: str = "world", test: int = 2000, held_out: int = 1000, train: int = 0, seed: int = 0) -> DataSet:
    """Test pictures, held-out ones for means and thresholds, and training ones if asked for; all disjoint."""
    return DataSet(
        world_split(name, "test", test, seed),
        world_split(name, "held_out", held_out, seed),
        world_split(name, "train", train, seed) if train else None,
    )


def _chunks(scenes: Scenes, size: int = 500) -> list[Scenes]:
    from dataclasses import fields, replace

    tensors = {
        f.name: getattr(scenes, f.name) for f in fields(scenes) if isinstance(getattr(scenes, f.name), torch.Tensor)
    }
    return [
        replace(
            scenes, seed=scenes.seed + start, **{name: value[start : start + size] for name, value in tensors.items()}
        )
        for start in range(0, len(scenes), size)
    ]
