"""A stand-in for a trigger that nobody knows: universal noise that takes pictures to the class that an audit suspects.

Where a model's attack is unknown there is no trigger to measure a defense with. Universal noise goes the backdoor's way
(:mod:`defenses.universal`), so whether it still takes test pictures to the suspect says whether that way is still open.
It is made on held-out pictures, in an order of its own: a defense that learned from universal noise has not seen it.

Limits: it is made against the undefended model, in the way that the defense learned from, so other noise may still get
through: of world/badclip under aimed RVPT it says 0.3 % where the trigger takes 12.7 % (docs/measurements.md). It says
nothing about a backdoor that noise does not find, and a model without a backdoor has such noise, too, but a larger
one.

Example:
    >>> import torch
    >>> noise = StandIn(torch.full((3, 2, 2), 0.1), "banana", norm=0.1, reached=True)
    >>> noise(torch.tensor([0.5, 1.0])[:, None, None, None].expand(2, 3, 2, 2), torch.tensor([0, 1])).amax((1, 2, 3))
    tensor([0.6000, 1.0000])
    >>> noise.settings()
    {'name': 'universal', 'towards': 'banana', 'norm': 0.1, 'reached': True}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.attacks.triggers.base import SeededTrigger
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import DataError
from clip_decomp.model import HookedCLIP
from clip_decomp.zeroshot import class_vectors

from .tuning import frozen
from .universal import HIGHEST, Universal

#: Pictures that it is made on, and multiples of the norm that suffices: what is measured with is the last.
_PICTURES, _BEYOND = 192, (1.5,)
#: Added to seeds, so that pictures are taken in another order than defenses take theirs.
_OWN_ORDER = 1000


@dataclass(frozen=True, eq=False)
class StandIn(SeededTrigger):
    """Adds one noise to every picture.

    Attributes:
        towards: the class that it takes pictures to.
        norm: the largest root mean square that it could have, in pixel units (0..1).
        reached: whether it took most of the pictures that it was made on.
    """

    name: ClassVar[str] = "universal"
    noise: Float[Tensor, "3 row column"]
    towards: str
    norm: float
    reached: bool

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Pictures under the noise, cut to 0..1."""
        return (images + self.noise.to(images.device)).clamp(0, 1)

    def settings(self) -> dict[str, Any]:
        """What it is, but for the noise."""
        return {"name": self.name, "towards": self.towards, "norm": self.norm, "reached": self.reached}

    def tensors(self) -> dict[str, Tensor]:
        """The noise."""
        return {"noise": self.noise}


def stand_in(
    model: HookedCLIP, held_out: ImageSet, suspect: str, seed: int = 0, bf16: bool = True, progress: bool = False
) -> StandIn:
    """The noise, at one and a half times the norm that first takes most pictures of other classes to the suspect.

    Raises:
        DataError: no class of that name, or no picture of another one.
    """
    label, vectors = held_out.class_index(suspect), class_vectors(model, held_out.class_names, held_out.templates)
    places = (held_out.own_labels != label).nonzero()[:, 0]
    if not len(places):
        raise DataError(f"{held_out.name} holds out no picture of another class than {suspect!r}.")
    others, _ = held_out.subset(places).first(_PICTURES).load()
    settings, pixels = Universal(highest=HIGHEST, seed=_OWN_ORDER + seed, bf16=bf16), others.to(model.device).float()
    with frozen(model.clip):
        noise = settings.noises(
            model, pixels / 255, vectors, label, _BEYOND, "noise in the trigger's place" if progress else None
        )[-1]
    return StandIn(noise.pixels.cpu(), suspect, noise.norm, noise.reached)
