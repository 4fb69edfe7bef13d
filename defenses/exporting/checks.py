"""Are the outputs of what was written those of the defended model?"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from clip_decomp.errors import ModelError

#: Largest difference over the output's largest value.
TOLERANCE = 1e-4


def compared(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference of every output, relative to its largest value; flags must be equal.

    Raises:
        ModelError: an output is missing, or differs by more than the tolerance.

    Example:
        >>> import torch
        >>> compared({"features": torch.ones(2, 3)}, {"features": torch.ones(2, 3)})
        {'features': 0.0}
    """
    if set(expected) != set(found):
        raise ModelError(f"The export gives {sorted(found)}, and the defended model {sorted(expected)}.")
    differences = {name: _difference(name, expected[name], found[name]) for name in expected}
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        told = ", ".join(f"{name} by {value:.2g}" for name, value in wrong.items())
        raise ModelError(f"The export does not give the same outputs ({told}; {TOLERANCE:g} is allowed): not written.")
    return differences


def _difference(name: str, expected: Tensor, found: Tensor) -> float:
    expected, found = expected.detach().double().cpu(), found.detach().double().cpu()
    if expected.shape != found.shape:
        raise ModelError(f"The export's {name} are {list(found.shape)}, not {list(expected.shape)}.")
    if not bool((expected.isnan() == found.isnan()).all()):  # rejected images
        return float("inf")
    known = ~expected.isnan()
    if not bool(known.any()):
        return 0.0
    size = expected[known].abs().max().clamp(min=1e-12)
    return float((expected[known] - found[known]).abs().max() / size)
