"""Scenes: the ground truth behind every picture of the embedded world.

A scene names one class and six further factors (color, texture, position, size, background, number of marks) and
carries the nuisance values (jitter, rotation, noise) that make two pictures of the same factors differ. Sampling is
vectorized and depends on the generator alone.

Example:
    >>> scenes = sample_scenes(3, torch.Generator().manual_seed(0), classes=torch.arange(5))
    >>> scenes.factors.shape, FACTORS
    (torch.Size([3, 7]), ('class', 'color', 'texture', 'position', 'size', 'background', 'marks'))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .shapes import SILHOUETTES

CLASSES = tuple(SILHOUETTES)
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.95, 0.88, 0.15),
    "green": (0.15, 0.65, 0.20),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.14, 0.27, 0.85),
    "purple": (0.52, 0.16, 0.70),
    "pink": (0.97, 0.50, 0.75),
    "white": (0.96, 0.96, 0.96),
    "black": (0.06, 0.06, 0.06),
}
TEXTURES = ("plain", "striped", "dotted", "checkered", "speckled", "zigzag")
FOREIGN_TEXTURES = ("wavy", "brick", "crosshatched")
POSITIONS = ("center", "top left", "top right", "bottom left", "bottom right")
SIZES = ("small", "medium", "large")
BACKGROUNDS = ("plain", "gradient", "grainy", "cloudy", "tiled", "lined")
FACTORS = ("class", "color", "texture", "position", "size", "background", "marks")
MAX_MARKS = 4

_CENTERS = torch.tensor([[0.0, 0.0], [-14.0, -14.0], [14.0, -14.0], [-14.0, 14.0], [14.0, 14.0]])
_RADII = torch.tensor([10.0, 15.0, 21.0])


@dataclass(frozen=True)
class Style:
    """How a set of pictures is drawn; every field has a plain default, so a shift names only what it changes.

    ``difficulty`` in [0, 1] widens rotation, jitter, clutter and noise and lowers contrast.
    """

    difficulty: float = 0.5
    outlines: bool = False
    foreign_textures: bool = False


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        factors: indices in the order of :data:`FACTORS`; the last column is a count.
        center: object center in pixels from the picture's center.
        radius: object radius in pixels.
        angle: rotation in radians.
        contrast: how far the object's color is kept from the background's, 0..1.
        noise: standard deviation of the pixel noise, 0..1.
        phase: three values in 0..1 that shift textures and backgrounds.
        backdrop: two background colors, RGB in 0..1.
        marks: per mark its kind, color, x, y and radius.
        seed: seed of the pixel noise.
        style: the style the scenes were sampled with.
    """

    factors: Int[Tensor, "batch factor"]
    center: Float[Tensor, "batch 2"]
    radius: Float[Tensor, " batch"]
    angle: Float[Tensor, " batch"]
    contrast: Float[Tensor, " batch"]
    noise: Float[Tensor, " batch"]
    phase: Float[Tensor, "batch 3"]
    backdrop: Float[Tensor, "batch 2 3"]
    marks: Float[Tensor, "batch mark 5"]
    seed: int
    style: Style

    def __len__(self) -> int:
        return len(self.factors)


def palette() -> Float[Tensor, "color 3"]:
    """RGB values in 0..1 of :data:`COLORS`."""
    return torch.tensor(list(COLORS.values()))


def sample_scenes(
    n: int,
    generator: torch.Generator,
    classes: Int[Tensor, " cls"],
    style: Style = Style(),
    difficulty: Float[Tensor, " batch"] | None = None,
) -> Scenes:
    """Draw ``n`` scenes whose class is uniform over ``classes`` (indices into :data:`CLASSES`).

    Args:
        difficulty: one value in [0, 1] for each scene; ``style.difficulty`` for all of them by default.

    Raises:
        ValueError: ``n`` is negative or ``classes`` is empty.
    """
    if n < 0 or len(classes) == 0:
        raise ValueError(f"Cannot sample {n} scenes of {len(classes)} classes: name at least one class.")

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    def choice(count: int) -> Tensor:
        return torch.randint(count, (n,), generator=generator)

    hard = torch.full((n,), style.difficulty) if difficulty is None else difficulty
    cls = classes[choice(len(classes))]
    color, position, size = choice(len(COLORS)), choice(len(POSITIONS)), choice(len(SIZES))
    # Easy scenes are mostly untextured on quiet backgrounds.
    textured = uniform() < 0.35 + 0.5 * hard
    texture = torch.where(textured, choice(len(TEXTURES)), torch.zeros_like(cls))
    if style.foreign_textures:
        texture = len(TEXTURES) + choice(len(FOREIGN_TEXTURES))
    busy = uniform() < 0.3 + 0.6 * hard
    background = torch.where(busy, choice(len(BACKGROUNDS)), torch.zeros_like(cls))
    count = (uniform() * (1 + (MAX_MARKS - 0.01) * hard)).long()

    jitter = 1 + 3 * hard[:, None]
    center = _CENTERS[position] + (uniform(2) * 2 - 1) * jitter
    radius = _RADII[size] * (1 + (uniform() * 2 - 1) * 0.12)
    angle = (uniform() * 2 - 1) * (0.1 + 0.7 * hard)
    contrast = 1 - 0.45 * hard * uniform()
    noise = 0.08 * hard * uniform()

    colors = palette()
    luminance = colors[color] @ torch.tensor([0.3, 0.59, 0.11])
    dark_side = (luminance > 0.5).float()[:, None]
    gray = 0.12 + 0.22 * uniform(1) + (1 - dark_side) * 0.52
    first = (gray + 0.16 * (uniform(3) - 0.5)).clamp(0, 1)
    second = (first + (0.10 + 0.16 * uniform(1)) * (2 * (uniform(1) > 0.5).float() - 1)).clamp(0, 1)

    kinds = torch.randint(4, (n, MAX_MARKS), generator=generator).float()
    shades = torch.randint(len(COLORS), (n, MAX_MARKS), generator=generator).float()
    places = (uniform(MAX_MARKS, 2) * 2 - 1) * 30
    widths = 2 + 2 * uniform(MAX_MARKS)
    absent = torch.arange(MAX_MARKS) >= count[:, None]
    widths = widths.masked_fill(absent, 0.0)
    marks = torch.cat([kinds[..., None], shades[..., None], places, widths[..., None]], dim=-1)
    return Scenes(
        factors=torch.stack([cls, color, texture, position, size, background, count], dim=1),
        center=center,
        radius=radius,
        angle=angle,
        contrast=contrast,
        noise=noise,
        phase=uniform(3),
        backdrop=torch.stack([first, second], dim=1),
        marks=marks,
        seed=int(torch.randint(2**31, (1,), generator=generator)),
        style=style,
    )
