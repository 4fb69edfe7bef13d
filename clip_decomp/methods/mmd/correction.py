"""Corrections of p-values for the number of components tested."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import DataError, SettingError

#: ``holm`` and ``bh`` work on p-values, ``max`` on the permuted values themselves.
Correction = Literal["holm", "bh", "max"]


def check_correction(correction: str) -> None:
    """Refuse an unknown correction, with a SettingError."""
    if correction not in ("holm", "bh", "max"):
        raise SettingError(f"Corrections are holm, bh and max, not {correction!r}.")


def adjust(p_values: Float[Tensor, " component"], correction: Literal["holm", "bh"] = "holm") -> Tensor:
    """Adjusted p-values: Holm (1979), family-wise error; Benjamini and Hochberg (1995), false discovery rate.

    Raises:
        SettingError: an unknown correction.
        DataError: p-values outside 0..1.

    Example:
        >>> adjust(torch.tensor([0.01, 0.04, 0.03]))
        tensor([0.0300, 0.0600, 0.0600], dtype=torch.float64)
    """
    p = p_values.detach().to("cpu", torch.float64)
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise DataError(f"p-values lie in 0..1, not {p.min():g} to {p.max():g}.")
    if correction == "bh":
        from scipy.stats import false_discovery_control

        return torch.from_numpy(false_discovery_control(p.numpy()))
    if correction != "holm":
        raise SettingError(f"Corrections of p-values are holm and bh, not {correction!r}.")
    order = p.argsort()
    adjusted = torch.empty_like(p)
    adjusted[order] = (p[order] * torch.arange(len(p), 0, -1)).cummax(0).values.clamp_(max=1)
    return adjusted


def max_p(
    value: Float[Tensor, " component"],
    null: Float[Tensor, "component permutation"],
    rounding: Float[Tensor, " component"],
) -> Float[Tensor, " component"]:
    """Family-wise p-values from the largest of all components under each permutation (Westfall and Young 1993).

    Components differ in scale, so each is first divided by its own spread over all splits, the observed one included,
    which keeps the splits exchangeable. A component that never varies gets 1.
    """
    splits = torch.cat([value[:, None], null], dim=1)
    centered = splits - splits.mean(1, keepdim=True)
    spread = centered.square().mean(1).sqrt()
    varies = spread > rounding
    scores = torch.where(varies[:, None], centered / spread.clamp(min=torch.finfo(spread.dtype).tiny)[:, None], 0.0)
    largest = scores[:, 1:].amax(0)
    exceeding = (largest[None] >= scores[:, :1] - 1e-9).sum(1)
    p = (1 + exceeding).double() / (1 + null.shape[1])
    return torch.where(varies, p, 1.0)
