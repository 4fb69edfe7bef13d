"""Shares of pictures with their intervals, Wilson's at 95 %.

Example:
    >>> rate(9, 10)
    Rate(value=0.9, low=0.595..., high=0.982..., count=10)
    >>> print(Tally(9, 10).rate)
    90.0% [59.6%, 98.2%] of 10
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import binomtest

from ..errors import DataError


@dataclass(frozen=True)
class Rate:
    """A share of ``count`` images with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.count}"


def interval_metrics(prefix: str, rates: Mapping[str, Rate]) -> dict[str, float]:
    """Flat metrics as in ``results.json``: ``<prefix>/<measure>``, and its interval as ``/low`` and ``/high``."""
    return {
        f"{prefix}/{measure}{suffix}": value
        for measure, share in rates.items()
        for suffix, value in (("", share.value), ("/low", share.low), ("/high", share.high))
    }


def rate(hits: int, count: int) -> Rate:
    """A share with its interval.

    Raises:
        DataError: there is nothing to count.
    """
    if count == 0:
        raise DataError("There are no images to take a rate of.")
    interval = binomtest(hits, count).proportion_ci(method="wilson")
    return Rate(hits / count, float(interval.low), float(interval.high), count)


class Tally(NamedTuple):
    """``hits`` of ``count`` pictures."""

    hits: int
    count: int

    @property
    def rate(self) -> Rate:
        """The share with its interval; a DataError without pictures."""
        return rate(*self)
