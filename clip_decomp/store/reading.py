"""Reading a store: one head, one MLP or one batch at a time, and never the whole unless asked.

Files are mapped, not loaded: what is read is the piece that was asked for. Given a model, its weights must be those
that the store was written with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ..contributions import Contributions, Means
from ..convention import Convention, convention
from ..data.sets import BATCH_SIZE
from ..errors import DataError, ModelError, SettingError
from ..model import HookedCLIP
from ..models.fingerprint import fingerprint
from .files import ANEW, BASIS, STATISTICS, opened, sha256, shard_file
from .packing import from_half
from .plan import Plan, read_plan
from .shards import image_axis
from .statistics import StoredStatistics

ALL = slice(None)


@dataclass(frozen=True)
class Store:
    """A complete store. Nothing is in memory but its manifest.

    Attributes:
        plan: model, data and settings that it was written with.
        manifest: all that ``manifest.json`` says.
    """

    folder: Path
    plan: Plan
    manifest: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return self.manifest["counts"]["images"]

    def __getitem__(self, place: tuple[int, int]) -> Float[Tensor, "image d_embed"]:
        """Contributions of one head in the joint space, ``store[layer, head]``."""
        if not isinstance(place, tuple) or len(place) != 2:
            raise SettingError(f"A head of a store is store[layer, head], not store[{place!r}].")
        layer, head = self._head(*place)
        return self.coordinates(layer, head) @ self.basis(layer, head)

    def __iter__(self) -> Iterator[Contributions]:
        return self.batches()

    def basis(self, layer: int, head: int) -> Float[Tensor, "rank d_embed"]:
        """Orthonormal rows of a head's own space."""
        with opened(self.folder / BASIS, self.plan.identity) as stored:
            return stored.read("basis", *self._head(layer, head)).clone()

    def coordinates(self, layer: int, head: int, images: slice = ALL) -> Float[Tensor, "image rank"]:
        """Contributions of one head in its own space."""
        return self._read("heads", self._head(layer, head), images)

    def mlps(self, layer: int, images: slice = ALL) -> Float[Tensor, "image d_embed"]:
        """Contributions of one MLP."""
        layers = self.plan.model["layers"]
        if not -layers <= layer < layers:
            raise SettingError(f"There is no layer {layer}: this tower has layers 0 to {layers - 1}.")
        return self._read("mlps", (layer % layers,), images)

    def part(self, name: str, images: slice = ALL) -> Float[Tensor, "image d_embed"]:
        """Another part of the sum: ``embedding``, ``bias``, of some towers ``pool_mlp``.

        Raises:
            SettingError: this tower has no such part.
        """
        if name not in self.plan.model["parts"]:
            raise SettingError(f"There is no part {name!r} in this store, only {self.plan.model['parts']}.")
        return self._read(name, (), images)

    @cached_property
    def labels(self) -> Int[Tensor, " image"]:
        """True classes, as places in :attr:`class_names`."""
        return self._read("labels", (), ALL)

    @cached_property
    def indices(self) -> Int[Tensor, " image"]:
        """Places of the pictures in the source of the data; those that could not be read are not among them."""
        return self._read("indices", (), ALL)

    @cached_property
    def norm(self) -> Float[Tensor, " image"]:
        """Norms of the representations."""
        return self._read("norm", (), ALL)

    @cached_property
    def scale(self) -> Float[Tensor, " image"]:
        """What the final norm multiplied every image's stream by."""
        return self._read("scale", (), ALL)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.plan.data["class_names"])

    @property
    def skipped(self) -> list[str]:
        """A line for every picture that could not be read."""
        return list(self.manifest["skipped_images"])

    @property
    def convention(self) -> Convention:
        """How constants are treated."""
        return convention(self.plan.settings["convention"])

    @cached_property
    def statistics(self) -> StoredStatistics:
        """Moments of heads, MLPs and layers over all pictures, from float64 sums of unrounded contributions."""
        return StoredStatistics(self.folder, self.plan, len(self))

    @property
    def mean(self) -> Means:
        """Means of all heads, MLPs and the embedding in the joint space."""
        return self.statistics.means()

    def covariance(self, layer: int, head: int) -> Float64[Tensor, "rank rank"]:
        """Covariance (divided by the count) of one head in its own space."""
        return self.statistics.head(layer, head).covariance

    def batches(self, size: int = BATCH_SIZE) -> Iterator[Contributions]:
        """All pictures in order, ``size`` at a time.

        Raises:
            SettingError: the size is below 1.
        """
        if size < 1:
            raise SettingError(f"The batch size must be 1 or more, not {size}.")
        with opened(self.folder / BASIS, self.plan.identity) as stored:
            basis = stored.read("basis").clone()
        for start in range(0, len(self), size):
            yield self._contributions(slice(start, start + size), basis)

    def contributions(self, images: slice = ALL) -> Contributions:
        """Contributions of all pictures, or of some, in memory: what ablations and MMD take."""
        with opened(self.folder / BASIS, self.plan.identity) as stored:
            return self._contributions(images, stored.read("basis").clone())

    @property
    def n_bytes(self) -> int:
        """Bytes of the store's files."""
        files = [self.folder / BASIS, self.folder / STATISTICS, *map(self._file, range(self.plan.n_shards))]
        return sum(file.stat().st_size for file in files)

    @property
    def shard_bytes(self) -> int:
        """Bytes of the shards: what grows with the number of pictures."""
        return sum(shard["bytes"] for shard in self.manifest["shards"])

    def verify(self) -> None:
        """Read everything and compare with the hashes that were taken when it was written.

        Raises:
            DataError: a shard is not what was written; the message names the file.
        """
        for number, known in enumerate(self.manifest["shards"]):
            if sha256(self._file(number)) != known["sha256"]:
                raise DataError(f"{self._file(number)}: its content is not what was written. {ANEW}")

    def _contributions(self, images: slice, basis: Tensor) -> Contributions:
        return Contributions(
            coordinates=self._read("heads", (), images).permute(2, 0, 1, 3).contiguous(),
            basis=basis,
            mlps=self._read("mlps", (), images).transpose(0, 1).contiguous(),
            labels=self.labels[images],
            convention=self.convention,
            **{name: self._read(name, (), images) for name in self.plan.model["parts"]},
        )

    def _read(self, name: str, place: tuple[int, ...], images: slice) -> Tensor:
        """A tensor's pictures from all shards that have some of them, decoded.

        Args:
            place: indices into the axes before the image axis: all of them, or none.
        """
        first, last, step = images.indices(len(self))
        if step != 1 or first >= last:
            raise SettingError(f"Pictures of a store are read in order, one or more of {len(self)}: not {images}.")
        axis = image_axis(name) - len(place)
        pieces, start = [], 0
        for number, known in enumerate(self.manifest["shards"]):
            stop = start + known["images"]
            low, high = max(first, start), min(last, stop)
            if low < high:
                piece = (*place, *[ALL] * axis, slice(low - start, high - start))
                pieces.append(self._piece(number, name, piece))
            start = stop
        return torch.cat(pieces, dim=axis)

    def _piece(self, number: int, name: str, piece: tuple) -> Tensor:
        with opened(self._file(number), self.plan.identity) as shard:
            if shard.facts["shard"] != number:
                raise DataError(f"{shard.file}: it is shard {shard.facts['shard']} under another name.")
            value = shard.read(name, *piece)
            if value.dtype == torch.float16:
                return from_half(value, shard.read(f"{name}.power", *piece))
            return value.clone()

    def _file(self, number: int) -> Path:
        return shard_file(self.folder, number)

    def _head(self, layer: int, head: int) -> tuple[int, int]:
        layers, heads = self.plan.model["layers"], self.plan.model["heads"]
        if not -layers <= layer < layers or not -heads <= head < heads:
            raise SettingError(f"There is no head L{layer}H{head}: this tower has {layers} layers of {heads} heads.")
        return layer % layers, head % heads

    def __repr__(self) -> str:
        model, settings = self.plan.model, self.plan.settings
        attack = "" if settings["attack"] is None else f" under {settings['attack']['name']}"
        tower = f"{model['layers']} layers of {model['heads']} heads"
        return (
            f"Store({len(self)} pictures of {self.plan.data['name']}{attack} read by {model['name']}, "
            f"{tower}, {settings['dtype']}, convention {settings['convention']})"
        )


def open_store(folder: Path | str, model: HookedCLIP | None = None) -> Store:
    """Open a complete store.

    Args:
        model: if given, it must be the one that the store was written with.

    Raises:
        DataError: there is no store, it is not complete, or a file is missing or truncated.
        ModelError: the store was written with other weights.
    """
    folder = Path(folder)
    plan, manifest = read_plan(folder)
    if not manifest["complete"]:
        raise DataError(f"{folder}: the store is not complete: run the command that began it again to go on.")
    if model is not None and (own := fingerprint(model)) != plan.model["fingerprint"]:
        raise ModelError(
            f"{folder} was written with other weights ({plan.model['name']}, {plan.model['fingerprint'][:12]}) than "
            f"{model.name} has ({own[:12]}): open it with its own model, or decompose with this one."
        )
    for number, known in enumerate(manifest["shards"]):
        file = shard_file(folder, number)
        if not file.exists():
            raise DataError(f"{file}: the file is missing. {ANEW}")
        if file.stat().st_size != known["bytes"]:
            raise DataError(f"{file}: it has {file.stat().st_size} bytes, but {known['bytes']} were written. {ANEW}")
    return Store(folder, plan, manifest)
