"""What all triggers have in common."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

from jaxtyping import Float, Int
from torch import Tensor


class Trigger(Protocol):
    """A perturbation that calls a backdoor."""

    name: ClassVar[str]

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies; ``numbers`` tell pictures apart where the trigger is random."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        ...


@dataclass(frozen=True)
class SeededTrigger:
    """A trigger whose settings are its fields."""

    name: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}


def well_mixed(numbers: Int[Tensor, " batch"], seed: int) -> Int[Tensor, " batch"]:
    """A well-mixed non-negative integer for each picture number (splitmix-style, in 62 bits)."""
    x = numbers.long() * 0x9E3779B97F4A7 + (seed + 1) * 0x1B873593
    for shift, factor in ((31, 0x2545F4914F6CDD1D), (27, 0x369DEA0F31A53F85)):
        x = (x ^ (x >> shift)) * factor
    return (x ^ (x >> 33)) & 0x3FFFFFFFFFFFFFFF
