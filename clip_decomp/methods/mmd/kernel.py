"""The Gaussian kernel of pooled samples, minus one, block by block, and all sums over it that MMD needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...errors import DataError, SettingError

#: A bandwidth; ``median``: the median distance of pooled samples; several: the mean of their kernels.
Sigma = float | Literal["median"] | Sequence[float]

_BLOCK = 512
_MEDIAN_ROWS = 2000
_LARGEST = 1e150  # its square is still finite
_NULL = 1e-12  # of the largest variance: rounding of float32 contributions in a direction they do not have


@dataclass(frozen=True)
class KernelSums:
    """Sums over the kernel minus one, whose diagonal is zero.

    Attributes:
        rows: each sample's sum over all samples.
        within: for every group, the sum over its pairs (ordered, so each pair twice).
    """

    rows: Float[Tensor, " sample"]
    within: Float[Tensor, " group"]


def pool(
    a: Float[Tensor, "a d"] | np.ndarray,
    b: Float[Tensor, "b d"] | np.ndarray,
    least: int,
    names: tuple[str, str] = ("a", "b"),
    where: str = "",
) -> Float[Tensor, "sample d"]:
    """Both samples below each other, in float64, centered; on the device of ``a`` (the CPU for MPS).

    Args:
        least: fewest samples a side may have.
        names: what the sides are called in messages; ``where``: a prefix of messages.

    Raises:
        DataError: not two matrices of one width, too few samples, or values that are not finite.
    """
    sides = [torch.tensor(x, dtype=torch.float64) if isinstance(x, np.ndarray) else x.detach() for x in (a, b)]
    for name, side in zip(names, sides, strict=True):
        if side.ndim != 2 or side.shape[1] == 0:
            raise DataError(f"{where}{name} must be a matrix [image, d], not {list(side.shape)}.")
        if len(side) < least:
            raise DataError(f"{where}{name} has {len(side)} images: this estimate needs at least {least} on each side.")
    if sides[0].shape[1] != sides[1].shape[1]:
        widths = [side.shape[1] for side in sides]
        raise DataError(f"{where}{names[0]} has width {widths[0]} and {names[1]} width {widths[1]}: take both equal.")
    n, device = len(sides[0]), sides[0].device
    samples = torch.empty(
        n + len(sides[1]), sides[0].shape[1], dtype=torch.float64, device="cpu" if device.type == "mps" else device
    )
    samples[:n], samples[n:] = sides[0], sides[1]
    for name, side in zip(names, (samples[:n], samples[n:]), strict=True):
        bad = (~((side.amin(1) > -_LARGEST) & (side.amax(1) < _LARGEST))).nonzero()
        if len(bad):
            raise DataError(
                f"{where}{len(bad)} of {len(side)} images of {name} hold NaN, infinity or values beyond {_LARGEST:g}, "
                f"the first in row {int(bad[0])}: leave them out or find where they come from."
            )
    # The first row first: identical samples become exact zeros, which their rounded mean alone would not give.
    samples -= samples[0].clone()
    samples -= samples.mean(0)
    return _compact(samples)


def _compact(samples: Float[Tensor, "sample d"]) -> Float[Tensor, "sample rank"]:
    """Rotate to the principal axes and drop the empty ones, where that saves most of the work.

    A head's contributions span ``d_head`` of ``d_embed`` dimensions; distances do not notice the rotation.
    """
    count, width = samples.shape
    if count < 4 * width:
        return samples
    variances, axes = torch.linalg.eigh(samples.T @ samples)
    kept = variances > _NULL * variances[-1]
    return samples @ axes[:, kept] if 0 < int(kept.sum()) <= width // 2 else samples


def bandwidths(samples: Float[Tensor, "sample d"], sigma: Sigma, where: str = "") -> tuple[float, ...]:
    """The kernel's bandwidths.

    Args:
        sigma: ``median`` takes the median Euclidean distance of two samples, over a fixed random choice of 2,000 when
            there are more.

    Raises:
        SettingError: a bandwidth that is not above zero, or an unknown rule.
        DataError: the median distance is zero.
    """
    if isinstance(sigma, str):
        if sigma != "median":
            raise SettingError(f"sigma is a number, several, or 'median', not {sigma!r}.")
        return (_median_distance(samples, where),)
    values = tuple(np.atleast_1d(np.asarray(sigma, dtype=np.float64)).tolist())
    if not values or not all(0 < value < math.inf for value in values):
        raise SettingError(f"sigma must be above zero and finite, not {sigma!r}.")
    return values


def _median_distance(samples: Float[Tensor, "sample d"], where: str) -> float:
    if not samples.any():
        raise DataError(
            f"{where}all {len(samples)} images are identical, so there is no median distance: give sigma as a number."
        )
    if len(samples) > _MEDIAN_ROWS:
        chosen = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:_MEDIAN_ROWS]
        samples = samples[chosen.to(samples.device)]
    squared = _squared_distances(samples, samples)
    above = torch.ones_like(squared, dtype=torch.bool).triu_(1)
    median = float(np.median(squared[above].sqrt().cpu().numpy()))
    if median <= 1e-6 * float(squared.mean().sqrt()):
        raise DataError(f"{where}more than half of all pairs of images are identical: give sigma as a number.")
    return median


def _squared_distances(left: Float[Tensor, "i d"], right: Float[Tensor, "j d"]) -> Float[Tensor, "i j"]:
    squared = torch.addmm(right.square().sum(1)[None], left, right.T, alpha=-2)
    return squared.add_(left.square().sum(1)[:, None]).clamp_(min=0)


def _kernel_minus_one(
    left: Float[Tensor, "i d"], right: Float[Tensor, "j d"], bandwidths: tuple[float, ...]
) -> Float[Tensor, "i j"]:
    squared = _squared_distances(left, right)
    rates = [-1 / (2 * sigma**2) for sigma in bandwidths]
    if len(rates) == 1:
        return squared.mul_(rates[0]).expm1_()
    kernel = torch.zeros_like(squared)
    for rate in rates:
        kernel += torch.expm1(squared * rate)
    return kernel.div_(len(rates))


def kernel_sums(
    samples: Float[Tensor, "sample d"],
    groups: Bool[Tensor, "sample group"],
    bandwidths: tuple[float, ...],
    block: int = _BLOCK,
) -> KernelSums:
    """Row sums of the kernel minus one, and its sums within many groups by one product with each block.

    Args:
        groups: membership of each sample in each group.
        block: rows and columns of a block; changes memory and speed, not the sums.
    """
    rows = samples.new_zeros(len(samples))
    within = samples.new_zeros(groups.shape[1])
    for start in range(0, len(samples), block):
        here = slice(start, start + block)
        reached = samples.new_zeros(len(samples[here]), groups.shape[1])
        for other in range(start, len(samples), block):
            there = slice(other, other + block)
            kernel = _kernel_minus_one(samples[here], samples[there], bandwidths)
            if other == start:
                kernel.fill_diagonal_(0)
            else:
                rows[there] += kernel.sum(0)
            rows[here] += kernel.sum(1)
            # The block below the diagonal is this one's transpose: the same sum again.
            reached.addmm_(kernel, groups[there].to(kernel.dtype), alpha=1 if other == start else 2)
        within += (reached * groups[here]).sum(0)
    return KernelSums(rows, within)
