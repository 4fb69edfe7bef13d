"""Every head on its own: what ablating it alone does, and how much more it writes toward the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..contributions import Contributions, Means
from ..zeroshot import sides
from .result import check, score


@dataclass(frozen=True)
class HeadAblation:
    """Each head of the tower mean-ablated alone (direct effect).

    Attributes:
        clean_accuracy, attack_success_rate: in 0..1.
        baseline: the same two without ablation.
        mlp_gap: like ``gap``, for the MLPs.
        gap: mean over triggered images of the head's excess contribution toward the target: how much more it writes
            along ``target - mean of the other classes`` than its held-out mean does, in units of the representation's
            mean norm.
    """

    clean_accuracy: Float[Tensor, "layer head"]
    attack_success_rate: Float[Tensor, "layer head"]
    gap: Float[Tensor, "layer head"]
    mlp_gap: Float[Tensor, " layer"]
    baseline: tuple[float, float]


def head_ablation(
    clean: Contributions,
    triggered: Contributions,
    means: Means,
    vectors: Float[Tensor, "*side cls d_embed"],
    target: int,
) -> HeadAblation:
    """Ablate every head alone, working on class logits so that nothing of size [image, head, class] stays around.

    Args:
        vectors: class vectors, or one set for clean and one for triggered images; gaps are toward the latter.
    """
    check("heads", "separate", target, vectors.shape[-2])
    plain, called = sides(vectors)
    _, n_layers, n_heads, _ = clean.coordinates.shape
    accuracy, success = torch.zeros(n_layers, n_heads), torch.zeros(n_layers, n_heads)
    clean_logits, bad_logits = clean.sum() @ plain.T, triggered.sum() @ called.T
    rule = clean.convention
    for layer in range(n_layers):
        for head in range(n_heads):
            mean = means.heads[layer, head]
            edited, bad = (
                logits + mean @ own.T - side.coordinates[:, layer, head] @ (side.basis[layer, head] @ own.T)
                for logits, side, own in ((clean_logits, clean, plain), (bad_logits, triggered, called))
            )
            scores = score(edited.argmax(1), clean.labels, bad.argmax(1), triggered.labels, target, rule)
            accuracy[layer, head], success[layer, head] = scores[0], scores[1]
    others = torch.ones(len(called), dtype=torch.bool)
    others[target] = False
    axis = called[target] - called[others].mean(0)
    size = triggered.sum().norm(dim=1).mean()
    pushed = triggered[triggered.labels != target].means()
    base = score(clean_logits.argmax(1), clean.labels, bad_logits.argmax(1), triggered.labels, target, rule)
    return HeadAblation(
        clean_accuracy=accuracy,
        attack_success_rate=success,
        gap=(pushed.heads - means.heads) @ axis / size,
        mlp_gap=(pushed.mlps - means.mlps) @ axis / size,
        baseline=(base[0], base[1]),
    )
