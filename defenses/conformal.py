r"""Split conformal thresholds: a false-positive rate that holds for finitely many calibration images.

With n calibration scores that are exchangeable with the score s of a fresh clean image,

.. math::  p(s) = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}

is a valid p-value: :math:`P(p \le \alpha) \le \alpha` over calibration and image together (Vovk et al. 2005). Given one
calibration without ties, the rate of false positives is Beta-distributed with parameters m and n + 1 - m for
:math:`m = \lfloor \alpha (n + 1) \rfloor`: its mean is m / (n + 1), and more calibration images narrow it.

Limits: images that are not exchangeable with the calibration's (another camera, another domain) void the guarantee.

Example:
    >>> scores = torch.arange(1.0, 100.0)
    >>> p_values(torch.tensor([99.5, 50.0]), scores)
    tensor([0.0100, 0.5100])
    >>> needed(0.05)
    19
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.errors import DataError, SettingError


def needed(rate: float) -> int:
    """How many calibration images a false-positive rate needs at least.

    Raises:
        SettingError: a rate that does not lie between 0 and 1.
    """
    if not 0 < rate < 1:
        raise SettingError(f"The false-positive rate must lie between 0 and 1, not {rate}.")
    return math.ceil(1 / rate - 1 - 1e-9)


def sorted_reference(scores: Float[Tensor, " image"], rate: float) -> Float[Tensor, " image"]:
    """Calibration scores as :func:`p_values` takes them.

    Raises:
        SettingError: a rate that does not lie between 0 and 1.
        DataError: too few scores for the rate, or scores that are not finite.
    """
    if len(scores) < needed(rate):
        raise DataError(
            f"A false-positive rate of {rate:g} needs {needed(rate)} calibration images or more, and there are "
            f"{len(scores)}: with fewer no image could ever be flagged."
        )
    if not scores.isfinite().all():
        raise DataError("Calibration scores are not finite: are there NaNs among the images' pixels?")
    return scores.sort().values


def p_values(scores: Float[Tensor, " batch"], reference: Float[Tensor, " image"]) -> Float[Tensor, " batch"]:
    """Conformal p-values of scores, high scores being unusual.

    Args:
        reference: calibration scores in ascending order.
    """
    at_least = len(reference) - torch.searchsorted(reference, scores.contiguous())
    return (1 + at_least) / (len(reference) + 1)


def false_positive_spread(count: int, rate: float) -> tuple[float, float]:
    """Mean and standard deviation of the rate of false positives over calibrations with ``count`` images."""
    m = math.floor(rate * (count + 1) + 1e-9)
    mean = m / (count + 1)
    return mean, math.sqrt(mean * (1 - mean) / (count + 2))
