"""Direct contributions of a whole data set in memory, and their held-out means.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/clean")
    >>> clean = collect(model, open_data("world", 64, test=8).test)
    >>> clean.heads.shape, clean.means().heads.shape
    (torch.Size([8, 8, 12, 128]), torch.Size([8, 12, 128]))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from .attacks.triggers import Trigger
from .convention import EXACT, Convention, convention
from .data.sets import ImageSet
from .errors import DataError
from .model import HookedCLIP


@dataclass(frozen=True)
class Means:
    """Means over images, the material of mean-ablation and of prototypes."""

    heads: Float[Tensor, "layer head d_embed"]
    mlps: Float[Tensor, "layer d_embed"]
    embedding: Float[Tensor, " d_embed"]


@dataclass(frozen=True)
class Contributions:
    """Contributions of many images.

    Attributes:
        bias: everything constant; zero under the paper's convention.
        labels: true classes.
    """

    heads: Float[Tensor, "image layer head d_embed"]
    mlps: Float[Tensor, "image layer d_embed"]
    embedding: Float[Tensor, "image d_embed"]
    bias: Float[Tensor, "image d_embed"]
    labels: Int[Tensor, " image"]
    convention: Convention = EXACT

    def __len__(self) -> int:
        return len(self.labels)

    def sum(self) -> Float[Tensor, "image d_embed"]:
        """The representations."""
        return self.embedding + self.heads.sum((1, 2)) + self.mlps.sum(1) + self.bias

    def means(self) -> Means:
        """Means over the images, accumulated in float64."""
        return Means(*(x.mean(0, dtype=torch.float64).to(x.dtype) for x in (self.heads, self.mlps, self.embedding)))


def pictures(
    data: ImageSet, trigger: Trigger | None = None, batch_size: int = 256, progress: str | None = None
) -> Iterator[tuple[Float[Tensor, "batch 3 row column"], Int[Tensor, " batch"], Int[Tensor, " batch"]]]:
    """Pictures in 0..1, under a trigger if one is given, their labels and their places in the data.

    Args:
        progress: the label of a progress bar; none without it.

    Raises:
        DataError: none of the pictures can be read.
    """
    batches = data.batches(batch_size)
    empty = True
    total = -(-len(data) // batch_size)
    for batch in tqdm(batches, desc=progress, total=total, disable=progress is None, leave=False):
        empty = False
        pixels = batch.images.float() / 255
        yield (pixels if trigger is None else trigger(pixels, batch.indices)), batch.labels, batch.indices
    if empty:
        raise DataError(f"{data.name}: none of the {len(data)} images can be read, e.g. {data.skipped[0]}")


@torch.no_grad()
def collect(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None = None,
    rule: str | Convention = EXACT,
    batch_size: int = 256,
    progress: str | None = None,
) -> Contributions:
    """Decompose every picture of a data set, under a trigger if one is given."""
    rule = convention(rule)
    parts: list[list[Tensor]] = [[], [], [], [], []]
    for pixels, labels, _ in pictures(data, trigger, batch_size, progress):
        dec = model.decompose(model.normalize(pixels), convention=rule)
        for part, value in zip(parts, (dec.heads, dec.mlps, dec.embedding, dec.bias, labels), strict=True):
            part.append(value.cpu())
    return Contributions(*(torch.cat(part) for part in parts), convention=rule)
