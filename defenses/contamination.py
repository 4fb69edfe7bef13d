"""Are there two groups among images that are meant to be clean?

A group that is unlike the rest hides itself: means and covariances that it takes part in make room for it. So the
estimate is concentrated first, as in robust covariances (Rousseeuw & Van Driessen 1999): fit, keep the images with the
lowest scores, fit again. Where the scores of all images under the last fit are better described by two normal
distributions than by one (BIC), there are two groups.

Limits: measured on world/badnet with 200 images, a tenth of triggered ones and more is not seen: they are the cheapest
direction to make room for. Silence is no evidence of clean images.

Example:
    >>> noise = torch.Generator().manual_seed(0)
    >>> z, mlps = torch.randn(100, 2, 3, 4, generator=noise), torch.randn(100, 2, 8, generator=noise)
    >>> second_group(Observation(mlps[:, 0], z, mlps)) is None
    True
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from clip_decomp.decompose import Observation

from .deviation import Deviation, taken

_KEPT, _ROUNDS = 0.6, 5
#: How much better two groups must describe scores: twice a log Bayes factor, "strong" from 6 on (Kass & Raftery).
_EVIDENCE = 6.0


def second_group(seen: Observation) -> float | None:
    """The smaller group's share of the images, or None where they look like one group."""
    count = len(seen.z)
    kept = torch.arange(count)
    scores = torch.zeros(count)
    for _ in range(_ROUNDS):
        deviation = Deviation.fit(taken(seen, kept))
        scores = deviation.measure(seen).score.cpu()
        scores[kept] = deviation.left_out.cpu()
        kept = scores.argsort()[: max(3, int(_KEPT * count))]
    return _minority(scores)


def _minority(scores: Tensor) -> float | None:
    values = scores.double().numpy()[:, None]
    one, two = (GaussianMixture(groups, random_state=0).fit(values) for groups in (1, 2))
    if one.bic(values) - two.bic(values) < _EVIDENCE:
        return None
    return float(np.min(two.weights_))
