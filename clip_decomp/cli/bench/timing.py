"""Measuring works side by side, and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from statistics import median


def side_by_side(works: Sequence[Callable[[], object]], rounds: int, warm: bool = True) -> list[float]:
    """Median seconds of each work; works take turns, so that a slow moment hits all of them.

    Args:
        warm: let each work run once before it is measured.
    """
    for work in works if warm else ():
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [median(taken) for taken in times]


def peak_memory() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
