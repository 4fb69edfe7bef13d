"""Which heads and MLPs carry a change of pictures towards a class: the decomposition, before and after.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/badnet")
    >>> pixels = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> found = carriers(model, pixels, model.trigger(pixels, torch.arange(4)), torch.ones(128))
    >>> len(found), round(sum(each.share for each in found), 3)
    (106, 1.0)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE
from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT


@dataclass(frozen=True)
class Carrier:
    """A component's part in a change.

    Attributes:
        name: ``L7H3``, ``MLP 7``, ``embedding``, ``constants`` or, of an attention pool, ``pool MLP``.
        change: of its contribution along the direction, mean over pictures.
        share: of the whole change.
    """

    name: str
    change: float
    share: float


@torch.no_grad()
def carriers(
    model: HookedCLIP,
    before: Float[Tensor, "image 3 row column"],
    after: Float[Tensor, "image 3 row column"],
    direction: Float[Tensor, " d_embed"],
) -> list[Carrier]:
    """Every component's part in what pictures in 0..1 gain along a direction, the largest change first.

    Raises:
        ModelError: the tower has no heads to read.
    """
    tower = model.visual
    if not isinstance(tower, HookedViT):
        raise ModelError(f"{model.name} has a {type(tower).__name__}, which is no sum of heads and MLPs.")
    direction = direction / direction.norm()
    changes = sum(
        (_along(model, new, direction) - _along(model, old, direction)).sum(0)
        for old, new in zip(before.split(BATCH_SIZE), after.split(BATCH_SIZE), strict=True)
    )
    assert isinstance(changes, Tensor)
    means, whole = (changes / len(before)).tolist(), changes.sum().item() / len(before)
    names = [f"L{layer}H{head}" for layer in range(tower.n_layers) for head in range(tower.n_heads)]
    names += [f"MLP {layer}" for layer in range(tower.n_layers)] + ["embedding", "constants"]
    names += ["pool MLP"] * (len(means) - len(names))
    found = [Carrier(name, mean, mean / whole) for name, mean in zip(names, means, strict=True)]
    return sorted(found, key=lambda each: -abs(each.change))


def _along(model: HookedCLIP, pixels: Tensor, direction: Tensor) -> Float[Tensor, "image component"]:
    parts = model.decompose(model.normalize(pixels))
    direction = direction.to(parts.mlps)
    heads = parts.toward(direction[None])[..., 0].flatten(1)
    single = [each[:, None] for each in (parts.embedding, parts.bias, parts.pool_mlp) if each is not None]
    others = torch.cat([parts.mlps, *single], dim=1) @ direction
    return torch.cat([heads, others], dim=1).float()
