"""The published algorithms, written down plainly: what the benches and the tests compare with.

None of this is used anywhere else, and none of it is fast.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...contributions import Contributions, Means
from ...evaluation import attack_rates


def published_textspan(
    data: Float[Tensor, "image d_embed"], texts: Float[Tensor, "text d_embed"], n_texts: int, rank: int
) -> tuple[list[int], Float[Tensor, "image d_embed"]]:
    """TEXTSPAN with dense projections each round, as Gandelsman et al. (2024) describe it: choices, reconstruction."""
    _, _, rows = torch.linalg.svd(data, full_matrices=False)
    rows = rows[:rank]
    texts = texts @ rows.T @ rows
    mean = data.mean(0, keepdim=True)
    data, reconstruction, chosen = data - mean, mean.expand_as(data).clone(), []
    for _ in range(n_texts):
        best = int((data @ texts.T).std(0).argmax())
        chosen.append(best)
        direction = texts[best] / texts[best].norm()
        part = (data @ direction)[:, None] * direction
        reconstruction, data = reconstruction + part, data - part
        texts = texts - (texts @ direction)[:, None] * direction
    return chosen, reconstruction


def looped_sweeps(
    clean: Contributions, triggered: Contributions, means: Means, vectors: Float[Tensor, "cls d_embed"], target: int
) -> list[tuple[float, float]]:
    """Every sweep of heads, MLPs and layers, one configuration after another: replace, add up, classify.

    Returns clean accuracy and attack success rate of each configuration, in the order of ``direct_sweeps``.
    """
    n_layers = clean.mlps.shape[1]
    sides = [(side, side.heads) for side in (clean, triggered)]
    found = []
    for over in ("heads", "mlps", "layers"):
        for scheme in ("forward", "backward", "separate"):
            for layer in range(n_layers):
                ablated = {
                    "forward": slice(0, layer + 1),
                    "backward": slice(layer, n_layers),
                    "separate": slice(layer, layer + 1),
                }[scheme]
                guesses = []
                for side, every in sides:
                    heads, mlps = every.clone(), side.mlps.clone()
                    if over != "mlps":
                        heads[:, ablated] = means.heads[ablated]
                    if over != "heads":
                        mlps[:, ablated] = means.mlps[ablated]
                    edited = side.embedding + heads.sum((1, 2)) + mlps.sum(1) + side.bias
                    guesses.append((edited @ vectors.T).argmax(-1))
                accuracy = (guesses[0] == clean.labels).float().mean().item()
                asr, _ = attack_rates(guesses[1], triggered.labels, target, clean.convention)
                found.append((accuracy, asr.value))
    return found
