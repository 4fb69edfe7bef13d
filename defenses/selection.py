r"""Which heads of an image look infected: the selector of He et al. (2025), section 4.

The prototype of a head is the mean of its contributions over held-out clean images. A head of an image is *selected*
when its similarity to its prototype is low, :math:`S \le \epsilon`. The paper's text says cosine, its code takes the
dot product of contributions that were divided by the norm of the whole representation; both are offered.

Without an epsilon the threshold is calibrated: the value below which a given share of clean (image, head) pairs falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.convention import PAPER
from clip_decomp.data.sets import BATCH_SIZE, ImageSet
from clip_decomp.decomposition import Decomposition
from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP

Measure = Literal["dot", "cosine"]


@dataclass(frozen=True)
class HeadSelector:
    """Selects the heads of one layer or several that are unlike their prototypes.

    Attributes:
        prototypes: mean contributions over clean images.
        epsilon: heads whose similarity is at most this are selected.
    """

    layers: tuple[int, ...]
    prototypes: Float[Tensor, "layer head d_embed"]
    epsilon: float
    measure: Measure

    def similarity(self, heads: Float[Tensor, "batch layer head d_embed"]) -> Float[Tensor, "batch layer head"]:
        """Similarity of contributions (of the selector's layers) to their prototypes."""
        return similarity(heads, self.prototypes, self.measure)

    def select(self, heads: Float[Tensor, "batch layer head d_embed"]) -> Bool[Tensor, "batch layer head"]:
        """Heads that look infected."""
        return self.similarity(heads) <= self.epsilon


def similarity(
    heads: Float[Tensor, "batch layer head d_embed"],
    prototypes: Float[Tensor, "layer head d_embed"],
    measure: Measure,
) -> Float[Tensor, "batch layer head"]:
    """Dot product or cosine of contributions with prototypes."""
    if measure == "cosine":
        heads, prototypes = F.normalize(heads, dim=-1), F.normalize(prototypes, dim=-1)
    return (heads * prototypes).sum(-1)


def fit_selector(
    heads: Float[Tensor, "image layer head d_embed"],
    layers: tuple[int, ...],
    epsilon: float | None,
    measure: Measure,
    share: float,
) -> HeadSelector:
    """A selector from the clean contributions of ``layers``.

    Args:
        epsilon: the threshold; None calibrates it so that ``share`` of the clean (image, head) pairs is selected.

    Raises:
        SettingError: a negative epsilon, an unknown measure, or a share outside 0..1.
    """
    if epsilon is not None and epsilon < 0:
        raise SettingError(f"Epsilon is a similarity of zero or more, not {epsilon}; leave it out to calibrate it.")
    if measure not in ("dot", "cosine"):
        raise SettingError(f"Similarities are 'dot' (the paper's code) or 'cosine' (its text), not {measure!r}.")
    if not 0 < share < 1:
        raise SettingError(f"The share of clean heads to select must lie between 0 and 1, not {share}.")
    prototypes = heads.mean(0)
    if epsilon is None:
        values = similarity(heads, prototypes, measure).flatten()
        epsilon = float(values.double().sort().values[int(share * (len(values) - 1))])
    return HeadSelector(layers, prototypes, epsilon, measure)


def resolve_layers(layers: tuple[int, ...], n_layers: int) -> tuple[int, ...]:
    """Layer numbers from zero, negative ones counted from the end.

    Raises:
        SettingError: no layers, or one that the tower does not have.
    """
    if not layers:
        raise SettingError("Name one layer or more.")
    for layer in layers:
        if not -n_layers <= layer < n_layers:
            raise SettingError(f"There is no layer {layer}: this tower has layers 0 to {n_layers - 1}.")
    return tuple(layer % n_layers for layer in layers)


def clean_batches(
    model: HookedCLIP, images: ImageSet | Float[Tensor, "image 3 row column"], batch_size: int = BATCH_SIZE
) -> list[Float[Tensor, "batch 3 row column"]]:
    """Clean images, given as a data set or as normalized tensors, as normalized batches.

    Raises:
        DataError: fewer than two images.
    """
    if isinstance(images, ImageSet):
        batches = [model.normalize(batch.images.float() / 255) for batch in images.batches(batch_size)]
    else:
        batches = list(images.split(batch_size))
    if sum(len(batch) for batch in batches) < 2:
        raise DataError("Prototypes need two clean images or more.")
    return batches


@torch.no_grad()
def clean_decompositions(
    model: HookedCLIP, images: ImageSet | Float[Tensor, "image 3 row column"], batch_size: int = BATCH_SIZE
) -> list[Decomposition]:
    """Decompose clean images, given as a data set or as normalized tensors, under the paper's convention.

    Raises:
        DataError: fewer than two images.
    """
    return [model.decompose(batch, convention=PAPER) for batch in clean_batches(model, images, batch_size)]
