"""Scenes to pictures: a vectorized renderer on signed distance fields.

Every object is a lookup in the atlas of its class at rotated and scaled pixel coordinates, so a batch is a handful of
tensor operations whatever its classes. Textures and backgrounds are functions of coordinates, computed only for the
pictures that have them.

Example:
    >>> from clip_decomp.data.world.scenes import sample_scenes
    >>> scenes = sample_scenes(2, torch.Generator().manual_seed(0), classes=torch.arange(3))
    >>> draw(scenes).shape, draw(scenes).dtype
    (torch.Size([2, 3, 64, 64]), torch.uint8)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from .scenes import BACKGROUNDS, CLASSES, FOREIGN_TEXTURES, TEXTURES, Scenes, palette
from .shapes import EXTENT, MARKS, signed_distances

IMAGE_SIZE = 64
_OUTLINE = 1.3
_ALL_TEXTURES = TEXTURES + FOREIGN_TEXTURES


def _pixels() -> tuple[Tensor, Tensor]:
    axis = torch.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2
    return axis[None, None, :], axis[None, :, None]


def _sample(atlas: Tensor, kinds: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Distance, in silhouette units, of each pixel to the outline of its picture's silhouette."""
    grid = torch.stack([u, v], dim=-1) / EXTENT
    fields = atlas[kinds][:, None]
    return F.grid_sample(fields, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


def _square(x: Tensor) -> Tensor:
    """A square wave in 0..1 with soft edges and period 1."""
    return (0.5 + 2.5 * torch.sin(2 * math.pi * x)).clamp(0, 1)


def _texture(name: str, x: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Pattern in 0..1; ``x`` and ``y`` are pixels along the object's own axes."""
    if name == "striped":
        return _square(x / 6)
    if name == "dotted":
        return (1.5 - ((x % 6 - 3) ** 2 + (y % 6 - 3) ** 2).sqrt() + 0.5).clamp(0, 1)
    if name == "checkered":
        return (_square(x / 8) - _square(y / 8)).abs()
    if name == "speckled":
        return (noise > 0.62).float()
    if name == "zigzag":
        return _square((y + (x % 8 - 4).abs()) / 6)
    if name == "wavy":
        return _square((y + 2 * torch.sin(x / 2.2)) / 6)
    if name == "brick":
        shifted = x + 4 * (torch.floor(y / 5) % 2)
        return ((y % 5 < 1.2) | (shifted % 8 < 1.2)).float()
    if name == "crosshatched":
        return torch.maximum(_square((x + y) / 8), _square((x - y) / 8))
    return torch.zeros_like(x)


def _background(name: str, x: Tensor, y: Tensor, phase: Tensor, noise: Tensor) -> Tensor:
    p0, p1, p2 = (phase[:, k, None, None] for k in range(3))
    if name == "gradient":
        turn = 2 * math.pi * p0
        return (0.5 + (x * torch.cos(turn) + y * torch.sin(turn)) / 64).clamp(0, 1)
    if name == "grainy":
        return noise
    if name == "cloudy":
        waves = torch.sin(x / 6 + 6 * p0) * torch.sin(y / 7 + 6 * p1) + torch.sin((x + y) / 9 + 6 * p2)
        return (0.5 + 0.3 * waves).clamp(0, 1)
    if name == "tiled":
        return (_square(x / 16 + p0) - _square(y / 16 + p1)).abs()
    if name == "lined":
        return _square(y / 10 + p0 + 0 * x)
    return torch.zeros_like(x + y)


def _by_kind(kinds: Tensor, names: tuple[str, ...], out: Tensor, fill) -> Tensor:
    """Fill ``out`` in place, one call for each kind that occurs; the first kind stays blank."""
    for index in kinds.unique().tolist():
        if index:
            rows = (kinds == index).nonzero()[:, 0]
            out[rows] = fill(names[index], rows)
    return out


def draw(scenes: Scenes) -> UInt8[Tensor, "batch 3 row column"]:
    """Render scenes as 64 x 64 RGB pictures. The same scenes always give the same pixels."""
    n = len(scenes)
    generator = torch.Generator().manual_seed(scenes.seed)
    px, py = _pixels()
    noise = torch.rand(n, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    cls, color, texture, _, _, background, _ = scenes.factors.unbind(1)
    colors = palette()

    blank = torch.zeros(n, IMAGE_SIZE, IMAGE_SIZE)
    mix = _by_kind(
        background,
        BACKGROUNDS,
        blank.clone(),
        lambda name, rows: _background(name, px, py, scenes.phase[rows], noise[rows]),
    )
    first, second = scenes.backdrop[:, 0, :, None, None], scenes.backdrop[:, 1, :, None, None]
    picture = first + mix[:, None] * (second - first)
    _draw_marks(picture, scenes, colors, px, py)

    # The object's own axes, in silhouette units (u, v) and in pixels (x, y).
    dx = px - scenes.center[:, 0, None, None]
    dy = py - scenes.center[:, 1, None, None]
    cos, sin = scenes.angle.cos()[:, None, None], scenes.angle.sin()[:, None, None]
    x, y = dx * cos + dy * sin, dy * cos - dx * sin
    radius = scenes.radius[:, None, None]
    distance = _sample(signed_distances(CLASSES), cls, x / radius, y / radius) * radius
    alpha = (0.5 - distance).clamp(0, 1)
    if scenes.style.outlines:
        alpha = alpha * (distance + 0.5 + _OUTLINE).clamp(0, 1)
    shift = scenes.phase[:, 2, None, None] * 8
    pattern = _by_kind(
        texture,
        _ALL_TEXTURES,
        blank,
        lambda name, rows: _texture(name, x[rows] + shift[rows], y[rows] + shift[rows], noise[rows]),
    )
    ink = colors[color]
    accent = torch.where(ink.mean(1, keepdim=True) > 0.5, ink * 0.45, ink + (1 - ink) * 0.6)
    mean_backdrop = scenes.backdrop.mean(1)
    fade = scenes.contrast[:, None]
    ink, accent = (mean_backdrop + fade * (tone - mean_backdrop) for tone in (ink, accent))
    body = ink[:, :, None, None] + pattern[:, None] * (accent - ink)[:, :, None, None]
    picture = torch.lerp(picture, body, alpha[:, None])
    picture += (noise[:, None] - 0.5) * (3.46 * scenes.noise[:, None, None, None])
    return picture.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _draw_marks(
    picture: Float[Tensor, "batch 3 row column"], scenes: Scenes, colors: Tensor, px: Tensor, py: Tensor
) -> None:
    atlas = signed_distances(tuple(MARKS))
    for slot in range(scenes.marks.shape[1]):
        kind, shade, mx, my, width = scenes.marks[:, slot].unbind(1)
        rows = (width > 0).nonzero()[:, 0]
        if not len(rows):
            continue
        scale = width[rows, None, None]
        u, v = (px - mx[rows, None, None]) / scale, (py - my[rows, None, None]) / scale
        shape = (len(rows), IMAGE_SIZE, IMAGE_SIZE)
        distance = _sample(atlas, kind[rows].long(), u.expand(shape), v.expand(shape)) * scale
        alpha = (0.5 - distance).clamp(0, 1)[:, None]
        picture[rows] = torch.lerp(
            picture[rows], colors[shade[rows].long()][:, :, None, None].expand(-1, -1, *shape[1:]), alpha
        )
