"""Direct effect: edit the sum of contributions. A sweep over all layers is one prefix sum over class logits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..contributions import Contributions, Means
from ..errors import SettingError
from ..zeroshot import sides
from .result import AblationResult, Component, Scheme, check, make_result, score

#: Heads, MLPs and layers, each forward, backward and separate.
CASES: list[tuple[Component, Scheme]] = list(product(get_args(Component), get_args(Scheme)))
#: Images whose logits are edited at a time.
_CHUNK = 256


def direct_ablation(
    clean: Contributions,
    triggered: Contributions,
    means: Means,
    vectors: Float[Tensor, "*side cls d_embed"],
    target: int,
    over: Component = "heads",
    scheme: Scheme = "forward",
) -> AblationResult:
    """Direct effect of ablating components layer by layer, from contributions already computed.

    Args:
        clean, triggered: contributions of test images without and with the trigger, under one convention.
        means: of held-out clean images, e.g. ``collect(model, held_out).means()``.
        vectors: class vectors, or one set for clean and one for triggered images.
        target: index of the attack's target class.

    Raises:
        SettingError: an unknown component or scheme, a target out of range, or two conventions.
    """
    (sweep,) = direct_sweeps(clean, triggered, means, vectors, target, [(over, scheme)])
    return sweep


def direct_sweeps(
    clean: Contributions,
    triggered: Contributions,
    means: Means,
    vectors: Float[Tensor, "*side cls d_embed"],
    target: int,
    cases: Sequence[tuple[Component, Scheme]] = CASES,
) -> list[AblationResult]:
    """Several sweeps in one pass over the contributions; arguments as for :func:`direct_ablation`.

    Raises:
        SettingError: an unknown component or scheme, a target out of range, or two conventions.
    """
    for over, scheme in cases:
        check(over, scheme, target, vectors.shape[-2])
    if clean.convention != triggered.convention:
        raise SettingError("Clean and triggered contributions follow two different conventions.")
    rule = clean.convention
    plain, called = sides(vectors)
    good, bad = _guesses(clean, means, plain, cases), _guesses(triggered, means, called, cases)

    def scores(case: int, entry: int) -> tuple[float, float, float]:
        return score(good[case][entry], clean.labels, bad[case][entry], triggered.labels, target, rule)

    layers = tuple(range(clean.mlps.shape[1]))
    return [
        make_result(
            over,
            scheme,
            "direct",
            (-1, *layers) if over == "mlps" and rule.embedding_is_mlp else layers,
            [scores(case, entry) for entry in range(1, len(good[case]))],
            scores(case, 0),
            clean.labels,
            triggered.labels,
            target,
            rule,
        )
        for case, (over, scheme) in enumerate(cases)
    ]


def _guesses(
    side: Contributions, means: Means, vectors: Tensor, cases: Sequence[tuple[Component, Scheme]]
) -> list[Int[Tensor, "entry image"]]:
    """Predictions of every case: nothing ablated first, then one entry a layer."""
    found: list[list[Tensor]] = [[] for _ in cases]
    for start in range(0, len(side), _CHUNK):
        part = side[start : start + _CHUNK]
        base = (part.sum() @ vectors.T)[:, None]
        heads = (means.heads.sum(1) - part.attentions()) @ vectors.T
        mlps = (means.mlps - part.mlps) @ vectors.T
        changes: dict[Component, Tensor] = {"heads": heads, "mlps": mlps, "layers": heads + mlps}
        if side.convention.embedding_is_mlp:
            changes["mlps"] = torch.cat([((means.embedding - part.embedding) @ vectors.T)[:, None], mlps], dim=1)
        for guesses, (over, scheme) in zip(found, cases, strict=True):
            edited = _accumulate(changes[over], scheme) + base
            guesses.append(torch.cat([base, edited], dim=1).argmax(-1))
    return [torch.cat(guesses).T for guesses in found]


def _accumulate(change: Float[Tensor, "image entry cls"], scheme: Scheme) -> Float[Tensor, "image entry cls"]:
    if scheme == "forward":
        return change.cumsum(1)
    if scheme == "backward":
        return change.flip(1).cumsum(1).flip(1)
    return change
