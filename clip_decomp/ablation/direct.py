"""Direct effect: edit the sum of contributions. A sweep over all layers is one prefix sum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..contributions import Contributions, Means
from ..convention import Convention
from ..errors import SettingError
from ..zeroshot import predict
from .result import AblationResult, Component, Scheme, check, make_result, score


def direct_ablation(
    clean: Contributions,
    triggered: Contributions,
    means: Means,
    vectors: Float[Tensor, "cls d_embed"],
    target: int,
    over: Component = "heads",
    scheme: Scheme = "forward",
) -> AblationResult:
    """Direct effect of ablating components layer by layer, from contributions already computed.

    Args:
        clean, triggered: contributions of test images without and with the trigger, under one convention.
        means: of held-out clean images, e.g. ``collect(model, held_out).means()``.
        vectors: class vectors.
        target: index of the attack's target class.

    Raises:
        SettingError: an unknown component or scheme, a target out of range, or two conventions.
    """
    check(over, scheme, target, len(vectors))
    if clean.convention != triggered.convention:
        raise SettingError("Clean and triggered contributions follow two different conventions.")
    rule = clean.convention
    sides = []
    layers: tuple[int, ...] = ()
    for side in (clean, triggered):
        layers, change = _changes(side, means, over, rule)
        sides.append((_accumulate(change, scheme) + side.sum()[:, None], side))
    (edited_clean, _), (edited_triggered, _) = sides
    points = [
        score(predict(edited_clean[:, k], vectors), clean.labels, predict(edited_triggered[:, k], vectors),
               triggered.labels, target, rule)
        for k in range(len(layers))
    ]  # fmt: skip
    base = score(
        predict(clean.sum(), vectors), clean.labels, predict(triggered.sum(), vectors), triggered.labels, target, rule
    )
    return make_result(over, scheme, "direct", layers, points, base, clean.labels, triggered.labels, target, rule)


def _changes(
    side: Contributions, means: Means, over: Component, rule: Convention
) -> tuple[tuple[int, ...], Float[Tensor, "image entry d_embed"]]:
    """What ablating each layer alone adds to the representation."""
    layers = tuple(range(side.heads.shape[1]))
    heads = (means.heads - side.heads).sum(2) if over != "mlps" else None
    mlps = means.mlps - side.mlps if over != "heads" else None
    if over == "heads":
        assert heads is not None
        return layers, heads
    assert mlps is not None
    if over == "layers":
        assert heads is not None
        return layers, heads + mlps
    if rule.embedding_is_mlp:
        return (-1, *layers), torch.cat([(means.embedding - side.embedding)[:, None], mlps], dim=1)
    return layers, mlps


def _accumulate(change: Float[Tensor, "image entry d_embed"], scheme: Scheme) -> Float[Tensor, "image entry d_embed"]:
    if scheme == "forward":
        return change.cumsum(1)
    if scheme == "backward":
        return change.flip(1).cumsum(1).flip(1)
    return change
