"""Pictures for texts: which are pushed most and least, and by which patches.

Only the pictures that are shown are read again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from ..attacks.triggers import Trigger
from ..contributions import pictures
from ..data.sets import ImageSet
from ..methods.attention import patch_grid
from .head import Head
from .result import Pushes, Shown, Side, Source, TextView

#: Every layer's values of every token are in memory for this many pictures at a time.
_BATCH = 16
#: Pictures are shown about this wide.
_WIDEST = 128


@dataclass(frozen=True)
class Passed:
    """What the first pass over the data keeps.

    Attributes:
        coordinates: of the head's contributions to each kind of pictures.
        basis: of the head's own space.
        numbers: places in the data.
        norm: mean length of the representations of clean pictures.
    """

    coordinates: dict[Side, Float[Tensor, "image rank"]]
    basis: Float[Tensor, "rank d_embed"]
    labels: Int[Tensor, " image"]
    numbers: Int[Tensor, " image"]
    norm: float


@dataclass(frozen=True)
class Candidate:
    """A text to show pictures for."""

    text: str
    source: Source
    feature: Float[Tensor, " d_embed"]


def make_views(
    head: Head,
    data: ImageSet,
    trigger: Trigger | None,
    passed: Passed,
    candidates: Sequence[Candidate],
    n_images: int,
) -> tuple[tuple[TextView, ...], dict[tuple[Side, int], str]]:
    """The pictures that the head pushes most and least toward each text, and all of them as data URIs."""
    features = torch.stack([each.feature for each in candidates])
    shown: dict[tuple[Side, int], str] = {}
    sides: dict[Side, list[Pushes]] = {}
    for side, coordinates in passed.coordinates.items():
        push = coordinates @ (passed.basis @ features.T)  # [image, text]
        order = push.argsort(dim=0, descending=True, stable=True)
        chosen = torch.cat([order[:n_images], order[-n_images:].flip(0)])
        maps: dict[int, Tensor] = {}
        places = passed.numbers[chosen.unique()].sort().values
        for pixels, _, numbers in pictures(
            replace(data, indices=places), trigger if side == "triggered" else None, _BATCH
        ):
            found = head.token_map(head.model.normalize(pixels), features).cpu()
            for number, picture, one in zip(numbers.tolist(), pixels, found, strict=True):
                maps[number] = one
                shown[side, number] = _encode(picture)
        sides[side] = [_pushes(head, data, passed, push[:, k], chosen[:, k], maps, k) for k in range(len(candidates))]
    triggered = sides.get("triggered", [None] * len(candidates))
    views = zip(candidates, sides["clean"], triggered, strict=True)
    return tuple(TextView(each.text, each.source, clean, other) for each, clean, other in views), shown


def _pushes(
    head: Head,
    data: ImageSet,
    passed: Passed,
    push: Float[Tensor, " image"],
    chosen: Int[Tensor, " shown"],
    maps: dict[int, Tensor],
    text: int,
) -> Pushes:
    tower = head.model.visual
    found = []
    for place in chosen.tolist():
        number = int(passed.numbers[place])
        tokens = maps[number][:, text]
        patches = patch_grid(tokens, tower.grid, prefix=tower.n_prefix)
        rest = float(tokens.sum() - patches.sum())
        name = data.class_names[int(passed.labels[place])]
        found.append(Shown(number, name, float(push[place]), patches.numpy(), rest))
    half = len(found) // 2
    return Pushes(tuple(found[:half]), tuple(found[half:]), float(push.mean()), float(push.std(correction=0)))


def _encode(pixels: Float[Tensor, "3 row column"]) -> str:
    """A picture in 0..1 as a data URI: PNG or JPEG without color subsampling, whichever is shorter."""
    picture = Image.fromarray((pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((_WIDEST, _WIDEST), Image.Resampling.LANCZOS)
    found = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85, "subsampling": 0})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        found.append(f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii"))
    return min(found, key=len)
