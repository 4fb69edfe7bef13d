"""What is derived from weights, made once for weights as they are.

Weights count as changed when a parameter is replaced, moved or written to; edits through ``.data`` are the only ones
that go unseen. Where gradients are asked for nothing is kept.

Example:
    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> kept = Kept(lambda: [weight])
    >>> with torch.no_grad():
    ...     first = kept("sum", lambda: weight.sum())
    ...     same = kept("sum", lambda: weight.sum()) is first
    ...     _ = weight.mul_(3)
    ...     same, kept("sum", lambda: weight.sum()).item()
    (True, 6.0)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Kept:
    """See the module.

    Args:
        weights: all that values may depend on, as they are now.
    """

    def __init__(self, weights: Callable[[], Iterable[Tensor]]):
        self._weights = weights
        self._values: dict[Hashable, tuple[Hashable, Any]] = {}

    def __call__(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a name, made if the weights are not those it was made for."""
        weights = list(self._weights())
        graph = torch.is_grad_enabled() and any(each.requires_grad for each in weights)
        if graph or torch.compiler.is_compiling() or any(each.is_inference() for each in weights):
            return make()
        state = tuple((id(each), each._version, each.data_ptr(), each.dtype) for each in weights)
        found = self._values.get(name)
        if found is None or found[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # usable in later passes of any mode
                found = self._values[name] = (state, make())
        return found[1]
