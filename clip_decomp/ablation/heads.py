"""Every head on its own: what ablating it alone does, and how much more it writes toward the target."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..contributions import Contributions, Means
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
    clean: Contributions, triggered: Contributions, means: Means, vectors: Float[Tensor, "cls d_embed"], target: int
) -> HeadAblation:
    """Ablate every head alone, working on class logits so that nothing of size [image, head, class] stays around."""
    check("heads", "separate", target, len(vectors))
    _, n_layers, n_heads, _ = clean.coordinates.shape
    accuracy, success = torch.zeros(n_layers, n_heads), torch.zeros(n_layers, n_heads)
    clean_logits, bad_logits = clean.sum() @ vectors.T, triggered.sum() @ vectors.T
    rule = clean.convention
    for layer in range(n_layers):
        for head in range(n_heads):
            mean = means.heads[layer, head] @ vectors.T
            edited, bad = (
                logits + mean - side.coordinates[:, layer, head] @ (side.basis[layer, head] @ vectors.T)
                for logits, side in ((clean_logits, clean), (bad_logits, triggered))
            )
            scores = score(edited.argmax(1), clean.labels, bad.argmax(1), triggered.labels, target, rule)
            accuracy[layer, head], success[layer, head] = scores[0], scores[1]
    others = torch.ones(len(vectors), dtype=torch.bool)
    others[target] = False
    axis = vectors[target] - vectors[others].mean(0)
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
