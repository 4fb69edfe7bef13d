"""Heads, MLPs and neurons each on their own, direct or total effect under one call.

A part is named as it is written: ``L11H3`` a head, ``L11MLP`` an MLP, ``L11N42`` a neuron, all zero-based.

Example:
    >>> Part.parse("L4H2"), Part.parse("L5MLP").name
    (Part(layer=4, kind='head', index=2), 'L5MLP')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..attacks.triggers import Trigger
from ..contributions import pictures
from ..convention import EXACT
from ..data.sets import BATCH_SIZE, ImageSet
from ..errors import SettingError
from ..methods.neurons import decompose_neurons
from ..model import HookedCLIP
from ..zeroshot import predict, sided_vectors
from .result import Effect, score
from .total import entering, hook_means

if TYPE_CHECKING:
    import pandas as pd

_KINDS: dict[str, Literal["head", "mlp", "neuron"]] = {"H": "head", "MLP": "mlp", "N": "neuron"}


@dataclass(frozen=True)
class Part:
    """A part of the tower that can be ablated alone; ``index`` counts heads or neurons (0 for MLPs)."""

    layer: int
    kind: Literal["head", "mlp", "neuron"]
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Part:
        """A part by its name.

        Raises:
            SettingError: that is no name of a part.
        """
        found = re.fullmatch(r"L(\d+)(?:(H|N)(\d+)|(MLP))", name)
        if found is None:
            raise SettingError(f"Parts are written L11H3 (a head), L11MLP or L11N42 (a neuron), not {name!r}.")
        layer, letter, index, mlp = found.groups()
        return cls(int(layer), _KINDS[mlp or letter], int(index or 0))

    @property
    def name(self) -> str:
        """As it is written."""
        return f"L{self.layer}MLP" if self.kind == "mlp" else f"L{self.layer}{self.kind[0].upper()}{self.index}"

    @property
    def hook(self) -> str:
        """The hook point its activation passes."""
        place = {"head": "attn.hook_z", "mlp": "hook_mlp_out", "neuron": "mlp.hook_post"}[self.kind]
        return f"blocks.{self.layer}.{place}"

    def check(self, model: HookedCLIP) -> None:
        """Refuse a part that a model does not have, with a SettingError."""
        tower = model.visual
        if self.layer >= tower.n_layers:
            raise SettingError(f"There is no {self.name}: this tower has layers 0 to {tower.n_layers - 1}.")
        count = {"head": tower.n_heads, "mlp": 1, "neuron": len(tower.blocks[self.layer].mlp.w_out)}[self.kind]
        if self.index >= count:
            raise SettingError(f"There is no {self.name}: layer {self.layer} has {count} {self.kind}s.")


@dataclass(frozen=True)
class PartEffects:
    """Each part mean-ablated alone; entry k of each tuple belongs to ``names[k]``.

    Attributes:
        clean_accuracy, attack_success_rate, poisoned_accuracy: in 0..1.
        baseline: the same three without ablation.
        count: images.
    """

    names: tuple[str, ...]
    effect: Effect
    clean_accuracy: tuple[float, ...]
    attack_success_rate: tuple[float, ...]
    poisoned_accuracy: tuple[float, ...]
    baseline: tuple[float, float, float]
    count: int

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a part."""
        import pandas as pd

        return pd.DataFrame(
            {
                "part": self.names,
                "clean_accuracy": self.clean_accuracy,
                "attack_success_rate": self.attack_success_rate,
                "poisoned_accuracy": self.poisoned_accuracy,
            }
        )

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``."""
        found = {}
        for k, name in enumerate(self.names):
            key = f"component={name};effect={self.effect}"
            found[f"{prefix}/asr;{key}"] = self.attack_success_rate[k]
            found[f"{prefix}/ca;{key}"] = self.clean_accuracy[k]
        return found

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3f}")


@torch.no_grad()
def part_effects(
    model: HookedCLIP,
    data: ImageSet,
    held_out: ImageSet,
    trigger: Trigger,
    parts: Sequence[str | Part],
    target: str | None = None,
    effect: Effect = "direct",
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> PartEffects:
    """Replace each part alone by its mean over held-out clean images, and measure.

    The direct effect edits the sum of contributions; the total effect patches the activation at every token and runs
    the rest of the tower, starting at the part's layer.

    Args:
        parts: names such as ``L11H3``, or parts.
        target: the attack's target class, the data set's by default.

    Raises:
        SettingError: no parts, one that the model does not have, an unknown effect, or no target.
        DataError: the target is not among the classes.
    """
    chosen = [Part.parse(part) if isinstance(part, str) else part for part in parts]
    if not chosen:
        raise SettingError("Name one part or more, such as L11H3.")
    for part in chosen:
        part.check(model)
    if effect not in ("direct", "total"):
        raise SettingError(f"Effects are direct and total, not {effect!r}.")
    name = target or data.target
    if name is None:
        raise SettingError(f"{data.name} has no target class: name one.")
    goal, vectors = data.class_index(name), sided_vectors(model, data, trigger)
    ablated = (_direct if effect == "direct" else _total)(model, held_out, chosen, batch_size)
    guesses: list[list[list[Tensor]]] = [[[], []] for _ in range(len(chosen) + 1)]
    truths: list[Tensor] = []
    for pixels, labels, indices in pictures(data, None, batch_size, progress):
        truths.append(labels)
        for side, images in enumerate((pixels, trigger(pixels, indices))):
            for found, features in zip(guesses, ablated(model.normalize(images)), strict=True):
                found[side].append(predict(features, vectors[side]).cpu())
    labels = torch.cat(truths)
    base, *scores = (score(torch.cat(a), labels, torch.cat(b), labels, goal, EXACT) for a, b in guesses)
    accuracy, success, poisoned = zip(*scores, strict=True)
    return PartEffects(
        tuple(part.name for part in chosen), effect, accuracy, success, poisoned, base, len(labels)
    )  # fmt: skip


#: Representations of normalized images: first as they are, then with each part ablated.
Ablated = Callable[[Float[Tensor, "batch 3 row column"]], Iterator[Float[Tensor, "batch d_embed"]]]


def _direct(model: HookedCLIP, held_out: ImageSet, parts: Sequence[Part], batch_size: int) -> Ablated:
    totals, count = [torch.zeros(model.visual.d_embed, dtype=torch.float64) for _ in parts], 0
    for pixels, labels, _ in pictures(held_out, None, batch_size):
        count += len(labels)
        _, found = _written(model, model.normalize(pixels), parts)
        for total, value in zip(totals, found, strict=True):
            total += value.sum(0, dtype=torch.float64).cpu()
    means = [(total / count).float() for total in totals]

    def run(images: Tensor) -> Iterator[Tensor]:
        features, found = _written(model, images, parts)
        yield features
        for mean, value in zip(means, found, strict=True):
            yield features + (mean.to(value) - value)

    return run


def _written(model: HookedCLIP, images: Tensor, parts: Sequence[Part]) -> tuple[Tensor, list[Tensor]]:
    """Representations and each part's direct contribution."""
    layers = sorted({part.layer for part in parts if part.kind == "neuron"})
    dec, neurons = decompose_neurons(model, images, layers)
    by_layer = dict(zip(layers, neurons, strict=True))
    coordinates, basis = dec.coordinates(), dec.head_basis
    found = []
    for part in parts:
        if part.kind == "head":
            found.append(coordinates[:, part.layer, part.index] @ basis[part.layer, part.index])
        elif part.kind == "mlp":
            found.append(dec.mlps[:, part.layer])
        else:
            found.append(by_layer[part.layer].contribution(part.index))
    return dec.sum(), found


def _total(model: HookedCLIP, held_out: ImageSet, parts: Sequence[Part], batch_size: int) -> Ablated:
    means = hook_means(model, held_out, sorted({part.hook for part in parts}), batch_size)

    def patch(part: Part) -> Callable:
        mean = means[part.hook]

        def hook(activation: Tensor, hook: object) -> Tensor:
            if part.kind == "mlp":
                return mean.to(activation).expand_as(activation)
            edited = activation.clone()
            edited[:, :, part.index] = mean[:, part.index].to(activation)
            return edited

        return hook

    def run(images: Tensor) -> Iterator[Tensor]:
        streams = entering(model, images)
        yield streams.features
        for part in parts:
            with model.visual.hooks(fwd_hooks=[(part.hook, patch(part))]):
                yield streams.resume(part.layer)

    return run
