"""Means and second moments of contributions, streamed: what TEXTSPAN and covariances of detectors need of the data.

A head's vectors stay in its own space (:attr:`~clip_decomp.decomposition.Decomposition.head_basis`), so a head with
``d_head`` 64 needs 33 kB whatever the number of images. Everything is summed in float64, and sums of parts of a data
set add up to the sums of the whole.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/clean")
    >>> found = collect_statistics(model, open_data("world", 64, test=40).test)
    >>> found.count, found.head(7, 3), found.mlp(7)
    (40, Moments(40 vectors, 16 of 128 dimensions), Moments(40 vectors, 128 of 128 dimensions))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .attacks.triggers import Trigger
from .contributions import decompositions
from .convention import EXACT, Convention, convention
from .data.sets import BATCH_SIZE, ImageSet
from .decomposition import Decomposition
from .drafts import drafted
from .errors import DataError, SettingError
from .model import HookedCLIP


@dataclass(frozen=True)
class Moments:
    """Count, mean and uncentered second moment of vectors.

    Attributes:
        mean, second: in coordinates of the basis.
        basis: orthonormal rows.
    """

    count: int
    mean: Float64[Tensor, " rank"]
    second: Float64[Tensor, "rank rank"]
    basis: Float64[Tensor, "rank d_embed"]

    @classmethod
    def of(cls, vectors: Tensor, basis: Tensor | None = None) -> Moments:
        """Moments of ``vectors`` ``[image, rank]``, which are coordinates in ``basis`` if one is given.

        Raises:
            DataError: not a matrix, no rows, or values that are not finite.
        """
        if vectors.ndim != 2 or not len(vectors):
            raise DataError(
                f"Contributions must be [image, d_embed] with one image or more, not {list(vectors.shape)}."
            )
        wide = vectors.double()
        mean, second = wide.mean(0), wide.T @ wide / len(wide)
        if not torch.isfinite(second).all():
            count = int((~torch.isfinite(vectors)).any(1).sum())
            raise DataError(f"{count} of {len(vectors)} contributions are NaN or infinite: leave them out.")
        identity = torch.eye(vectors.shape[1], dtype=torch.float64, device=vectors.device)
        return cls(len(wide), mean, second, identity if basis is None else basis.double())

    @property
    def covariance(self) -> Float64[Tensor, "rank rank"]:
        """Covariance (divided by the count), in coordinates of the basis."""
        return self.second - self.mean.outer(self.mean)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both parts together.

        Raises:
            SettingError: their coordinates are in two different bases.
        """
        if self.basis.shape != other.basis.shape or not torch.equal(self.basis, other.basis):
            raise SettingError("These moments are of two different components: their bases differ.")
        count = self.count + other.count
        own, others = self.count / count, other.count / count
        return Moments(
            count, own * self.mean + others * other.mean, own * self.second + others * other.second, self.basis
        )

    def __repr__(self) -> str:
        return f"Moments({self.count} vectors, {len(self.basis)} of {self.basis.shape[1]} dimensions)"


@dataclass(frozen=True)
class Statistics:
    """Sums over images for every head, MLP and layer; statistics of two parts of a data set can be added.

    Attributes:
        count: images.
        head_sum, head_second: of heads, in coordinates of ``basis``.
        mlp_sum, mlp_second: of MLPs.
        layer_sum, layer_second: of whole layers, heads and MLP together.
        basis: orthonormal rows of every head's own space.
    """

    count: int
    head_sum: Float64[Tensor, "layer head rank"]
    head_second: Float64[Tensor, "layer head rank rank"]
    mlp_sum: Float64[Tensor, "layer d_embed"]
    mlp_second: Float64[Tensor, "layer d_embed d_embed"]
    layer_sum: Float64[Tensor, "layer d_embed"]
    layer_second: Float64[Tensor, "layer d_embed d_embed"]
    basis: Float64[Tensor, "layer head rank d_embed"]
    convention: Convention

    @classmethod
    def of(cls, dec: Decomposition, basis: Tensor | None = None) -> Statistics:
        """Statistics of one batch.

        Args:
            basis: the model's head basis from an earlier batch.
        """
        basis = dec.head_basis if basis is None else basis
        heads = dec.coordinates(basis.to(dec.z)).double()
        mlps = dec.mlps.double()
        whole = dec.attentions.double() + mlps
        return cls(
            len(dec),
            heads.sum(0),
            torch.einsum("blhr,blhs->lhrs", heads, heads),
            *(each for part in (mlps, whole) for each in (part.sum(0), torch.einsum("bld,ble->lde", part, part))),
            basis=basis.double(),
            convention=dec.convention,
        )

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of both parts together.

        Raises:
            SettingError: they are not of one model under one convention.
        """
        if self.basis.shape != other.basis.shape or not torch.equal(self.basis, other.basis):
            raise SettingError("These statistics are of two models: their heads write into different spaces.")
        if self.convention != other.convention:
            raise SettingError("These statistics follow two different conventions.")
        added = {name: getattr(self, name) + getattr(other, name) for name in ("count", *_TENSORS) if name != "basis"}
        return replace(self, **added)

    def save(self, file: Path) -> Path:
        """Write one safetensors file, all of it or nothing."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        with drafted(file) as draft:
            save_file(tensors, draft, {"count": str(self.count), "convention": self.convention.name})
        return file

    @classmethod
    def load(cls, file: Path) -> Statistics:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: the file is missing, truncated or of another kind.
        """
        try:
            with safe_open(file, "pt") as stored:
                facts = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in _TENSORS}
            return cls(int(facts["count"]), **tensors, convention=convention(facts["convention"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"{file}: no statistics of contributions ({type(error).__name__}: {error}).") from error

    def head(self, layer: int, head: int) -> Moments:
        """Moments of one head.

        Raises:
            SettingError: there is no such head.
        """
        layers, heads = self.head_sum.shape[:2]
        if not -layers <= layer < layers or not -heads <= head < heads:
            raise SettingError(f"There is no head L{layer}H{head}: this tower has {layers} layers of {heads} heads.")
        return self._moments(self.head_sum[layer, head], self.head_second[layer, head], self.basis[layer, head])

    def mlp(self, layer: int) -> Moments:
        """Moments of one MLP.

        Raises:
            SettingError: there is no such layer.
        """
        self._check(layer)
        return self._moments(self.mlp_sum[layer], self.mlp_second[layer])

    def layer(self, layer: int) -> Moments:
        """Moments of a whole layer, its heads and its MLP together.

        Raises:
            SettingError: there is no such layer.
        """
        self._check(layer)
        return self._moments(self.layer_sum[layer], self.layer_second[layer])

    def _moments(self, total: Tensor, second: Tensor, basis: Tensor | None = None) -> Moments:
        own = torch.eye(len(total), dtype=torch.float64) if basis is None else basis
        return Moments(self.count, total / self.count, second / self.count, own)

    def _check(self, layer: int) -> None:
        if not -len(self.mlp_sum) <= layer < len(self.mlp_sum):
            raise SettingError(f"There is no layer {layer}: this tower has layers 0 to {len(self.mlp_sum) - 1}.")


_TENSORS = ("head_sum", "head_second", "mlp_sum", "mlp_second", "layer_sum", "layer_second", "basis")


def collect_statistics(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None = None,
    rule: str | Convention = EXACT,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> Statistics:
    """Statistics of a whole data set, under a trigger if one is given; nothing per image is kept."""
    total: Statistics | None = None
    for dec, _ in decompositions(model, data, trigger, convention(rule), batch_size, progress):
        found = Statistics.of(dec, None if total is None else total.basis)
        total = found if total is None else total + found
    assert total is not None  # decompositions() raises when there are none
    return total


def folded_statistics(
    model: HookedCLIP, data: ImageSet, folds: int, trigger: Trigger | None = None, rule: str | Convention = EXACT
) -> list[Statistics]:
    """Statistics of ``folds`` disjoint parts of a data set, every ``folds``-th picture each.

    Raises:
        DataError: fewer pictures than folds.
    """
    if not 1 <= folds <= len(data):
        raise DataError(f"{data.name}: {len(data)} pictures cannot be split into {folds} parts.")
    return list(_folds(model, data, folds, trigger, rule))


def _folds(model: HookedCLIP, data: ImageSet, folds: int, trigger: Trigger | None, rule) -> Iterator[Statistics]:
    for fold in range(folds):
        yield collect_statistics(model, data.subset(torch.arange(fold, len(data), folds)), trigger, rule)
