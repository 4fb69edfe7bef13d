"""From sums over the kernel to squared MMD, for the observed split of the samples and for permuted ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import SettingError
from .kernel import kernel_sums

#: ``biased``: the V-statistic of the papers, every pair counts; ``unbiased``: the U-statistic, pairs of two samples.
Estimator = Literal["biased", "unbiased"]


@dataclass(frozen=True)
class Statistic:
    """Squared MMD of the observed split and of permuted ones.

    Attributes:
        rounding: a difference of two values that means nothing.
    """

    value: float
    null: Float[Tensor, " permutation"]
    rounding: float


def check_estimator(estimator: str) -> int:
    """The fewest samples a side must have.

    Raises:
        SettingError: an unknown estimator.
    """
    if estimator not in ("biased", "unbiased"):
        raise SettingError(f"Estimators are biased and unbiased, not {estimator!r}.")
    return 1 if estimator == "biased" else 2


def splits(n: int, m: int, permutations: int, seed: int, paired: bool = False) -> Bool[Tensor, "sample split"]:
    """Who is in the first group: the observed split, then random ones.

    Args:
        paired: permuted splits only swap partners (row i of both samples) instead of mixing all samples.

    Raises:
        SettingError: a negative number of permutations, or samples of different sizes that are said to be paired.
    """
    if permutations < 0:
        raise SettingError(f"permutations must not be negative, not {permutations}.")
    if paired and n != m:
        raise SettingError(f"Paired samples have one length, not {n} and {m}: give partners in the same rows.")
    generator = torch.Generator().manual_seed(seed)
    member = torch.zeros(n + m, 1 + permutations, dtype=torch.bool)
    member[:n, 0] = True
    if paired:
        stays = torch.rand(n, permutations, generator=generator) < 0.5
        member[:n, 1:], member[n:, 1:] = stays, ~stays
    else:
        for column in range(1, 1 + permutations):
            member[torch.randperm(n + m, generator=generator)[:n], column] = True
    return member


def squared_mmd(
    samples: Float[Tensor, "sample d"],
    groups: Bool[Tensor, "sample split"],
    bandwidths: tuple[float, ...],
    estimator: Estimator,
    scale: float,
) -> Statistic:
    """Squared MMD times ``scale`` for every split."""
    groups = groups.to(samples.device)
    sums = kernel_sums(samples, groups, bandwidths)
    n = int(groups[:, 0].sum())
    m = len(samples) - n
    total = sums.rows.sum()
    from_first = torch.cat([sums.rows @ part.to(sums.rows.dtype) for part in groups.split(256, dim=1)])
    across = from_first - sums.within
    within_second = total - from_first - across
    same = 0 if estimator == "biased" else 1
    values = scale * (sums.within / (n * (n - same)) + within_second / (m * (m - same)) - 2 * across / (n * m))
    values = values.cpu()
    rounding = 1e-12 * abs(scale * float(total)) / len(samples) ** 2
    return Statistic(float(values[0]), values[1:], rounding)


def permutation_p(statistic: Statistic) -> float:
    """Share of splits, the observed one included, at least as far apart as the observed one."""
    exceeding = int((statistic.null >= statistic.value - statistic.rounding).sum())
    return (1 + exceeding) / (1 + len(statistic.null))
