"""Learning rates as closed-form shares of the peak, so that a step's rate does not depend on how the run got there.

Example:
    >>> [round(cosine(step, steps=6, warmup=2), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    >>> [round(linear(step, steps=6, warmup=2, decay=0.5), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 0.67, 0.33]
"""

from __future__ import annotations

import math


def linear(step: int, steps: int, warmup: int, decay: float) -> float:
    """Linear warm-up, then the peak, then linear to zero over the last ``decay`` of the steps."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    left = (steps - step) / max(1.0, decay * steps)
    return rise * min(1.0, left)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine to zero, as in open_clip and CleanCLIP (Bansal et al., 2023)."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
