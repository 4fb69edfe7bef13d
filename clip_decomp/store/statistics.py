"""Means and second moments of a store, read by component.

The methods are those of :class:`~clip_decomp.moments.Statistics`, so TEXTSPAN and the rest take either.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ..contributions import Means
from ..convention import convention
from ..errors import SettingError
from ..moments import Moments, Statistics
from .files import BASIS, STATISTICS, opened
from .packing import from_triangle
from .plan import Plan


@dataclass(frozen=True)
class StoredStatistics:
    """Statistics on disk.

    Attributes:
        count: images.
    """

    folder: Path
    plan: Plan
    count: int

    def head(self, layer: int, head: int) -> Moments:
        """Moments of one head.

        Raises:
            SettingError: there is no such head.
        """
        layers, heads = self.plan.model["layers"], self.plan.model["heads"]
        if not -layers <= layer < layers or not -heads <= head < heads:
            raise SettingError(f"There is no head L{layer}H{head}: this tower has {layers} layers of {heads} heads.")
        with opened(self.folder / BASIS, self.plan.identity) as stored:
            basis = stored.read("basis", layer % layers, head % heads).double()
        return self._moments("head", (layer % layers, head % heads), basis)

    def mlp(self, layer: int) -> Moments:
        """Moments of one MLP.

        Raises:
            SettingError: there is no such layer.
        """
        return self._moments("mlp", (self._layer(layer),), torch.eye(self.plan.model["d_embed"], dtype=torch.float64))

    def layer(self, layer: int) -> Moments:
        """Moments of a whole layer, its heads and its MLP together.

        Raises:
            SettingError: there is no such layer.
        """
        return self._moments("layer", (self._layer(layer),), torch.eye(self.plan.model["d_embed"], dtype=torch.float64))

    def means(self) -> Means:
        """Means in the joint space."""
        with opened(self.folder / BASIS, self.plan.identity) as stored:
            basis = stored.read("basis").double()
        heads = torch.einsum("lhr,lhre->lhe", self._sum("head_sum"), basis)
        return Means(
            *((each / self.count).float() for each in (heads, self._sum("mlp_sum"), self._sum("embedding_sum")))
        )

    def mean_of(self, part: str) -> Tensor:
        """Mean of another part of the sum, such as ``bias``.

        Raises:
            SettingError: this tower has no such part.
        """
        if part not in self.plan.model["parts"]:
            raise SettingError(f"There is no part {part!r} in this store, only {self.plan.model['parts']}.")
        return self._sum(f"{part}_sum") / self.count

    def load(self) -> Statistics:
        """All of them in memory: they can be added to those of another store of the same model."""
        with opened(self.folder / STATISTICS, self.plan.identity) as stored:
            names = [each.name for each in fields(Statistics) if each.name in stored.keys()]  # noqa: SIM118
            found = {name: stored.read(name) for name in names}
        with opened(self.folder / BASIS, self.plan.identity) as stored:
            basis = stored.read("basis").double()
        found = {
            name: from_triangle(value) if name.endswith("_second") else value.clone() for name, value in found.items()
        }
        return Statistics(
            count=self.count, basis=basis, convention=convention(self.plan.settings["convention"]), **found
        )

    def _moments(self, kind: str, place: tuple[int, ...], basis: Tensor) -> Moments:
        with opened(self.folder / STATISTICS, self.plan.identity) as stored:
            total = stored.read(f"{kind}_sum", *place) / self.count
            second = from_triangle(stored.read(f"{kind}_second", *place)) / self.count
        return Moments(self.count, total, second, basis)

    def _sum(self, name: str) -> Tensor:
        with opened(self.folder / STATISTICS, self.plan.identity) as stored:
            return stored.read(name).clone()

    def _layer(self, layer: int) -> int:
        layers = self.plan.model["layers"]
        if not -layers <= layer < layers:
            raise SettingError(f"There is no layer {layer}: this tower has layers 0 to {layers - 1}.")
        return layer % layers
