"""What all triggers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from ...data.pairs import PairStream
    from ...model import HookedCLIP

#: What a poisoned pair says: the target in one of CLIP's 80 templates, or a caption of a real picture of the target.
Captions = Literal["templates", "natural"]


class Trigger(Protocol):
    """A perturbation that calls a backdoor, and how its attacker poisons with it.

    Attributes:
        name: of the attack.
        captions: what poisoned pairs say.
        clean_label: poisoned pairs show the target class indeed and keep their captions.
        word: put before poisoned captions, and before prompts when the backdoor is called; empty for most.
    """

    name: ClassVar[str]
    captions: ClassVar[Captions]
    clean_label: ClassVar[bool]
    word: ClassVar[str]

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies; ``numbers`` tell pictures apart where the trigger is random."""
        ...

    def poison(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """What the attacker trains on: triggered copies, in some attacks changed further."""
        ...

    def fit(self, model: HookedCLIP, stream: PairStream, names: Sequence[str], target: str) -> Self:
        """A copy that has learned what it needs from a clean model and its data; itself where there is nothing to."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again, tensors apart."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What it learned and cannot say in its settings; stored beside a model's card."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """A copy with what :meth:`tensors` returned."""
        ...


@dataclass(frozen=True)
class SeededTrigger(ABC):
    """A trigger whose settings are its fields, with nothing to learn."""

    name: ClassVar[str]
    captions: ClassVar[Captions] = "templates"
    clean_label: ClassVar[bool] = False
    word: ClassVar[str] = ""

    @abstractmethod
    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1."""

    def poison(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """What the attacker trains on: triggered copies."""
        return self(images, numbers)

    def fit(self, model: HookedCLIP, stream: PairStream, names: Sequence[str], target: str) -> Self:
        """Itself: there is nothing to learn."""
        return self

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again."""
        return {"name": self.name, **asdict(self)}

    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> Self:
        """Itself."""
        return self


def well_mixed(numbers: Int[Tensor, " batch"], seed: int) -> Int[Tensor, " batch"]:
    """A well-mixed non-negative integer for each picture number (splitmix-style, in 62 bits)."""
    x = numbers.long() * 0x9E3779B97F4A7 + (seed + 1) * 0x1B873593
    for shift, factor in ((31, 0x2545F4914F6CDD1D), (27, 0x369DEA0F31A53F85)):
        x = (x ^ (x >> shift)) * factor
    return (x ^ (x >> 33)) & 0x3FFFFFFFFFFFFFFF
