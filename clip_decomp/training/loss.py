"""The CLIP loss with every true pair of the batch as a positive.

With one positive a row it is the loss of Radford et al. (2021); with several, the target is uniform over them, as in
UniCL (Yang et al., 2022).

Example:
    >>> features = torch.eye(3)
    >>> round(contrastive_loss(features, features, torch.tensor(10.0), torch.eye(3, dtype=torch.bool)).item(), 4)
    0.0001
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def contrastive_loss(
    image_features: Float[Tensor, "image d_embed"],
    text_features: Float[Tensor, "text d_embed"],
    scale: Float[Tensor, ""],
    positive: Bool[Tensor, "image text"],
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy against the uniform distribution over positives.

    Args:
        image_features: of unit norm.
        text_features: of unit norm.
        scale: inverse temperature.
        positive: which caption is true of which image; rows or columns without one are left out.
    """
    logits = scale * image_features @ text_features.T
    return (_cross_entropy(logits, positive) + _cross_entropy(logits.T, positive.T)) / 2


def _cross_entropy(logits: Tensor, positive: Tensor) -> Tensor:
    count = positive.sum(1)
    rows = count > 0
    picked = torch.where(positive, logits.log_softmax(1), 0.0).sum(1)[rows]
    return -(picked / count[rows]).mean()
