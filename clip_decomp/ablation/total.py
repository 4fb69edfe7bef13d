"""Total effect: patch activations at every token and run the rest of the tower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..attacks.triggers import Trigger
from ..contributions import pictures
from ..convention import EXACT
from ..data.sets import ImageSet
from ..model import HookedCLIP
from ..zeroshot import predict
from .result import AblationResult, Component, Scheme, check, make_result, score


@dataclass(frozen=True)
class ActivationMeans:
    """Means of activations over images, token by token: what total effects patch in."""

    z: tuple[Float[Tensor, "token head d_head"], ...]
    mlp_out: tuple[Float[Tensor, "token d_model"], ...]


@torch.no_grad()
def activation_means(model: HookedCLIP, data: ImageSet, batch_size: int = 256) -> ActivationMeans:
    """Means of ``hook_z`` and ``hook_mlp_out`` of every layer over held-out clean images."""
    layers = range(model.visual.n_layers)
    names = [f"blocks.{k}.attn.hook_z" for k in layers] + [f"blocks.{k}.hook_mlp_out" for k in layers]
    totals: dict[str, Tensor] = {}
    count = 0
    for pixels, labels, _ in pictures(data, None, batch_size):
        _, cache = model.visual.run_with_cache(model.normalize(pixels).to(model.device), names_filter=names)
        count += len(labels)
        for name in names:
            value = cache[name].double().sum(0)
            totals[name] = totals[name] + value if name in totals else value
    found = [(totals[name] / count).float() for name in names]
    return ActivationMeans(tuple(found[: len(layers)]), tuple(found[len(layers) :]))


@torch.no_grad()
def total_ablation(
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger,
    means: ActivationMeans,
    vectors: Float[Tensor, "cls d_embed"],
    target: int,
    over: Component = "heads",
    scheme: Scheme = "forward",
    batch_size: int = 256,
    progress: str | None = None,
) -> AblationResult:
    """Total effect of ablating components layer by layer: activations are patched and the tower runs on.

    Args:
        means: from :func:`activation_means` on held-out clean images.

    Raises:
        SettingError: an unknown component or scheme, or a target out of range.
    """
    check(over, scheme, target, len(vectors))
    n_layers = model.visual.n_layers
    sets: list[list[int]] = [[], *_layer_sets(n_layers, scheme)]
    guesses: list[list[list[Tensor]]] = [[[], []] for _ in sets]
    truths: list[Tensor] = []
    for pixels, labels, indices in pictures(data, None, batch_size, progress):
        truths.append(labels)
        for side, images in enumerate((pixels, trigger(pixels, indices))):
            for k, patched in enumerate(sets):
                with model.visual.hooks(fwd_hooks=list(_patches(patched, means, over))):
                    guesses[k][side].append(predict(model.encode_image(model.normalize(images)), vectors).cpu())
    labels = torch.cat(truths)
    scores = [
        score(torch.cat(on_clean), labels, torch.cat(on_triggered), labels, target, EXACT)
        for on_clean, on_triggered in guesses
    ]
    layers = tuple(range(n_layers))
    return make_result(over, scheme, "total", layers, scores[1:], scores[0], labels, labels, target, EXACT)


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
