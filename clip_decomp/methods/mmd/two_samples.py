"""MMD of two samples, and the permutation test of their difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...errors import SettingError
from .kernel import Sigma, bandwidths, pool
from .statistic import Estimator, check_estimator, permutation_p, splits, squared_mmd

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class MMDTest:
    """Squared MMD and what random splits of the same samples give.

    Attributes:
        value: squared MMD times ``scale``.
        p_value: share of splits, the observed one included, that are at least as far apart.
        null: values of the random splits.
        sigma: the bandwidths used.
        counts: samples on either side.
        paired: whether splits only swapped partners.
    """

    value: float
    p_value: float
    null: Float[Tensor, " permutation"]
    estimator: Estimator
    sigma: tuple[float, ...]
    scale: float
    counts: tuple[int, int]
    paired: bool

    @property
    def permutations(self) -> int:
        """Number of random splits."""
        return len(self.null)

    @property
    def null_mean(self) -> float:
        """Mean of the random splits."""
        return float(self.null.mean())

    @property
    def null_quantile(self) -> float:
        """The value that 95 % of the random splits stay below."""
        return float(self.null.quantile(0.95))

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` of one row."""
        import pandas as pd

        row = {"mmd": self.value, "p_value": self.p_value, "null_mean": self.null_mean, "null_95": self.null_quantile}
        return pd.DataFrame([{**row, "permutations": self.permutations, "n": self.counts[0], "m": self.counts[1]}])

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.4g}")


def mmd(
    a: Float[Tensor, "a d"] | Float[np.ndarray, "a d"],
    b: Float[Tensor, "b d"] | Float[np.ndarray, "b d"],
    sigma: Sigma = 10.0,
    estimator: Estimator = "biased",
    scale: float = 1000.0,
) -> float:
    """Squared maximum mean discrepancy of two samples under a Gaussian kernel, times ``scale``.

    The defaults are those of CMMD (Jayasumana et al. 2024), which He et al. (2025) use.

    Args:
        sigma: the kernel is ``exp(-distance^2 / (2 sigma^2))``. ``"median"`` takes the median distance of the pooled
            samples (of 2,000 of them when there are more); several bandwidths average their kernels.
        estimator: ``biased`` (V-statistic, never below zero) or ``unbiased`` (U-statistic, which can be).

    Raises:
        DataError: no samples (fewer than two on a side for ``unbiased``), different widths, values that are not
            finite, or no median distance.
        SettingError: a bandwidth that is not above zero, or an unknown estimator.

    Example:
        >>> import torch
        >>> mmd(torch.tensor([[0.0]]), torch.tensor([[10.0]]))  # 1000 (2 - 2 exp(-1/2))
        786.938...
        >>> mmd(torch.tensor([[0.0]]), torch.tensor([[10.0]]), sigma="median")
        786.938...
    """
    samples = pool(a, b, check_estimator(estimator))
    groups = splits(len(a), len(b), permutations=0, seed=0)
    return squared_mmd(samples, groups, bandwidths(samples, sigma), estimator, scale).value


def mmd_test(
    a: Float[Tensor, "a d"] | Float[np.ndarray, "a d"],
    b: Float[Tensor, "b d"] | Float[np.ndarray, "b d"],
    sigma: Sigma = 10.0,
    estimator: Estimator = "biased",
    permutations: int = 200,
    seed: int = 0,
    scale: float = 1000.0,
    paired: bool = False,
) -> MMDTest:
    """Squared MMD with a permutation p-value: do both samples come from one distribution?

    All splits are evaluated together, by one product of each block of the kernel with the matrix of memberships; see
    :func:`mmd` for the other arguments.

    Limits: mixing all samples assumes they are independent. Clean and triggered versions of the *same* pictures are
    not; the test is then conservative, and ``paired=True`` (row i of ``a`` and of ``b`` are partners), which only
    swaps partners, is exact and finds smaller differences.

    Raises:
        DataError: as for :func:`mmd`.
        SettingError: as for :func:`mmd`, fewer than one permutation, or paired samples of different sizes.
    """
    least = check_estimator(estimator)
    if permutations < 1:
        raise SettingError(f"A test needs at least one permutation, not {permutations}.")
    samples = pool(a, b, least)
    used = bandwidths(samples, sigma)
    groups = splits(len(a), len(b), permutations, seed, paired)
    found = squared_mmd(samples, groups, used, estimator, scale)
    return MMDTest(found.value, permutation_p(found), found.null, estimator, used, scale, (len(a), len(b)), paired)
