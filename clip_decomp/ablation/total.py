"""Total effect: patch activations at every token and run the rest of the tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..attacks.triggers import Trigger
from ..contributions import pictures
from ..convention import EXACT
from ..data.sets import BATCH_SIZE, ImageSet
from ..model import HookedCLIP
from ..zeroshot import predict, sides
from .result import AblationResult, Component, Scheme, check, make_result, score


@dataclass(frozen=True)
class ActivationMeans:
    """Means of activations over images, token by token: what total effects patch in."""

    z: tuple[Float[Tensor, "token head d_head"], ...]
    mlp_out: tuple[Float[Tensor, "token d_model"], ...]


def activation_means(model: HookedCLIP, data: ImageSet, batch_size: int = BATCH_SIZE) -> ActivationMeans:
    """Means of ``hook_z`` and ``hook_mlp_out`` of every layer over held-out clean images."""
    layers = range(model.visual.n_layers)
    z, out = ([f"blocks.{layer}.{point}" for layer in layers] for point in ("attn.hook_z", "hook_mlp_out"))
    found = hook_means(model, data, [*z, *out], batch_size)
    return ActivationMeans(tuple(found[name] for name in z), tuple(found[name] for name in out))


@torch.no_grad()
def hook_means(
    model: HookedCLIP, data: ImageSet, names: Sequence[str], batch_size: int = BATCH_SIZE
) -> dict[str, Float[Tensor, "token ..."]]:
    """Means of activations at hook points over images, token by token, summed in float64."""
    totals: dict[str, Tensor] = {}
    count = 0
    for pixels, labels, _ in pictures(data, None, batch_size):
        _, cache = model.visual.run_with_cache(model.normalize(pixels).to(model.device), names_filter=list(names))
        count += len(labels)
        for name in names:
            value = cache[name].double().sum(0)
            totals[name] = totals[name] + value if name in totals else value
    return {name: (total / count).float() for name, total in totals.items()}


@torch.no_grad()
def total_ablation(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger,
    means: ActivationMeans,
    vectors: Float[Tensor, "*side cls d_embed"],
    target: int,
    over: Component = "heads",
    scheme: Scheme = "forward",
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> AblationResult:
    """Total effect of ablating components layer by layer: activations are patched and the tower runs on.

    Args:
        means: from :func:`activation_means` on held-out clean images.
        vectors: class vectors, or one set for clean and one for triggered images.

    Raises:
        SettingError: an unknown component or scheme, or a target out of range.
    """
    check(over, scheme, target, vectors.shape[-2])
    each_side = sides(vectors)
    n_layers = model.visual.n_layers
    sets: list[list[int]] = [[], *_layer_sets(n_layers, scheme)]
    guesses: list[list[list[Tensor]]] = [[[], []] for _ in sets]
    truths: list[Tensor] = []
    for pixels, labels, indices in pictures(data, None, batch_size, progress):
        truths.append(labels)
        for side, images in enumerate((pixels, trigger(pixels, indices))):
            streams = entering(model, model.normalize(images))
            for k, patched in enumerate(sets):
                with model.visual.hooks(fwd_hooks=list(_patches(patched, means, over))):
                    features = streams.resume(min(patched, default=n_layers))
                guesses[k][side].append(predict(features, each_side[side]).cpu())
    labels = torch.cat(truths)
    scores = [
        score(torch.cat(on_clean), labels, torch.cat(on_triggered), labels, target, EXACT)
        for on_clean, on_triggered in guesses
    ]
    layers = tuple(range(n_layers))
    return make_result(over, scheme, "total", layers, scores[1:], scores[0], labels, labels, target, EXACT)


@dataclass(frozen=True)
class Streams:
    """The residual stream of a batch as it entered each block, so that patched runs start where they differ."""

    model: HookedCLIP
    entered: tuple[Float[Tensor, "batch token d_model"], ...]
    features: Float[Tensor, "batch d_embed"]

    def resume(self, layer: int) -> Float[Tensor, "batch d_embed"]:
        """Representations of a run from ``layer`` on, under the hooks attached now; past the last, as they were."""
        return self.features if layer >= len(self.entered) else self.model.visual.resume(self.entered[layer], layer)


@torch.no_grad()
def entering(model: HookedCLIP, images: Float[Tensor, "batch 3 row column"]) -> Streams:
    """One plain run over normalized images."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.visual.n_layers)]
    features, cache = model.visual.run_with_cache(images.to(model.device), names_filter=names)
    return Streams(model, tuple(cache[name] for name in names), features)


def _layer_sets(n_layers: int, scheme: Scheme) -> list[list[int]]:
    if scheme == "forward":
        return [list(range(k + 1)) for k in range(n_layers)]
    if scheme == "backward":
        return [list(range(k, n_layers)) for k in range(n_layers)]
    return [[k] for k in range(n_layers)]


def _patches(layers: list[int], means: ActivationMeans, over: Component) -> Iterator[tuple]:
    def replace_by(mean: Tensor):
        return lambda activation, hook: mean.to(activation).expand_as(activation)

    for layer in layers:
        if over in ("heads", "layers"):
            yield f"blocks.{layer}.attn.hook_z", replace_by(means.z[layer])
        if over in ("mlps", "layers"):
            yield f"blocks.{layer}.hook_mlp_out", replace_by(means.mlp_out[layer])
