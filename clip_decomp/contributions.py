"""Direct contributions of a whole data set in memory, and their held-out means.

A head's contributions never leave the ``d_head`` dimensions it can write to, so they are kept as coordinates in an
orthonormal basis of that space (:attr:`~clip_decomp.decomposition.Decomposition.head_basis`): distances and dot
products are those of the contributions, at a fraction of the memory.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/clean")
    >>> clean = collect(model, open_data("world", 64, test=8).test)
    >>> clean.coordinates.shape, clean.heads.shape, clean.means().heads.shape
    (torch.Size([8, 8, 12, 16]), torch.Size([8, 8, 12, 128]), torch.Size([8, 12, 128]))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from .attacks.triggers import Trigger
from .convention import EXACT, Convention, convention
from .data.sets import BATCH_SIZE, ImageSet
from .decomposition import Decomposition
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
        coordinates: of heads, each in its own space.
        basis: orthonormal rows, one basis a head.
        bias: everything constant; zero under the paper's convention.
        labels: true classes.
    """

    coordinates: Float[Tensor, "image layer head rank"]
    basis: Float[Tensor, "layer head rank d_embed"]
    mlps: Float[Tensor, "image layer d_embed"]
    embedding: Float[Tensor, "image d_embed"]
    bias: Float[Tensor, "image d_embed"]
    labels: Int[Tensor, " image"]
    convention: Convention = EXACT

    @classmethod
    def from_heads(
        cls,
        heads: Float[Tensor, "image layer head d_embed"],
        mlps: Float[Tensor, "image layer d_embed"],
        embedding: Float[Tensor, "image d_embed"],
        bias: Float[Tensor, "image d_embed"],
        labels: Int[Tensor, " image"],
        convention: Convention = EXACT,
    ) -> Contributions:
        """From contributions in the joint space, of which no smaller space is known."""
        identity = torch.eye(heads.shape[-1], dtype=heads.dtype)
        return cls(heads, identity.expand(*heads.shape[1:3], -1, -1), mlps, embedding, bias, labels, convention)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, images: slice | Bool[Tensor, " image"]) -> Contributions:
        parts = (self.mlps, self.embedding, self.bias, self.labels)
        return Contributions(
            self.coordinates[images], self.basis, *(part[images] for part in parts), convention=self.convention
        )

    @property
    def heads(self) -> Float[Tensor, "image layer head d_embed"]:
        """Contributions of all heads in the joint space, made anew: of many images it is large."""
        return torch.einsum("ilhr,lhre->ilhe", self.coordinates, self.basis)

    def head(self, layer: int, head: int) -> Float[Tensor, "image d_embed"]:
        """Contributions of one head in the joint space."""
        return self.coordinates[:, layer, head] @ self.basis[layer, head]

    def attentions(self) -> Float[Tensor, "image layer d_embed"]:
        """Contribution of every layer's heads together."""
        return torch.stack(
            [
                self.coordinates[:, layer].flatten(1) @ self.basis[layer].flatten(0, 1)
                for layer in range(self.coordinates.shape[1])
            ],
            dim=1,
        )

    def sum(self) -> Float[Tensor, "image d_embed"]:
        """The representations."""
        return self.embedding + self.attentions().sum(1) + self.mlps.sum(1) + self.bias

    def means(self) -> Means:
        """Means over the images, accumulated in float64."""
        coordinates = self.coordinates.mean(0, dtype=torch.float64)
        heads = torch.einsum("lhr,lhre->lhe", coordinates, self.basis.double())
        others = (each.mean(0, dtype=torch.float64) for each in (self.mlps, self.embedding))
        return Means(*(each.to(self.mlps.dtype) for each in (heads, *others)))


def pictures(
    data: ImageSet, trigger: Trigger | None = None, batch_size: int = BATCH_SIZE, progress: str | None = None
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
def decompositions(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None = None,
    rule: str | Convention = EXACT,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> Iterator[tuple[Decomposition, Int[Tensor, " batch"]]]:
    """Decompositions of a data set's pictures, batch by batch, with their labels; gradients are off."""
    for pixels, labels, _ in pictures(data, trigger, batch_size, progress):
        yield model.decompose(model.normalize(pixels), convention=rule), labels


@torch.no_grad()
def collect(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None = None,
    rule: str | Convention = EXACT,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> Contributions:
    """Decompose every picture of a data set, under a trigger if one is given."""
    rule = convention(rule)
    basis: Tensor | None = None
    parts: list[list[Tensor]] = [[], [], [], [], []]
    for dec, labels in decompositions(model, data, trigger, rule, batch_size, progress):
        basis = dec.head_basis if basis is None else basis
        rest = dec.bias if dec.pool_mlp is None else dec.bias + dec.pool_mlp
        found = (dec.coordinates(basis), dec.mlps, dec.embedding, rest, labels)
        for part, value in zip(parts, found, strict=True):
            part.append(value.cpu())
    assert basis is not None  # pictures() raises when there are none
    coordinates, *rest = (torch.cat(part) for part in parts)
    return Contributions(coordinates, basis.cpu(), *rest, convention=rule)
