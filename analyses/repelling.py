"""Does repelling make a tower's features resistant? RVPT's figure 1, with the defended model's curves beside it.

Zhang et al. argue that a tower trained on class labels alone resists perturbations because it never learned to encode
anything else, that CLIP's deeper layers do not, and that visual prompts help where they repel (RVPT), not where they
are tuned for the classes alone (VPT). :func:`compare` measures all of them under the same perturbations,
:func:`raised` says at how many layers a defense moved the curve.

Limits: layers before the first prompted block are those of the undefended tower by construction, so :func:`raised`
leaves them out. Cosines of different towers have different constant parts: the label-only tower's curve says how a
curve falls, not how high it must lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from clip_decomp.data.sets import ImageSet
from clip_decomp.methods.perturbations import PERTURBATIONS, Perturbation, make_perturbation
from clip_decomp.methods.resistivity import Resistivity, resistivity
from clip_decomp.model import HookedCLIP

#: Standard errors beyond which a difference counts: two-sided 95 %.
_ERRORS = 1.96


@dataclass(frozen=True)
class Raised:
    """Layers at which a defense moved the class token's resistivity by more than chance.

    Attributes:
        higher, lower: numbers of layers.
        layers: how many were compared, those from the first prompted block on.
        change: mean difference over these, defended minus undefended.
    """

    higher: int
    lower: int
    layers: int
    change: float

    def __str__(self) -> str:
        return f"higher at {self.higher}, lower at {self.lower} of {self.layers} layers, {self.change:+.3f} on average"


def compare(
    models: Mapping[str, HookedCLIP],
    test: ImageSet,
    trigger: tuple[str, Perturbation],
    progress: bool = False,
) -> dict[str, dict[str, Resistivity]]:
    """Resistivity of each model to the four benign perturbations and to a trigger, by perturbation and model."""
    perturbations = {name: make_perturbation(name) for name in PERTURBATIONS} | {f"trigger: {trigger[0]}": trigger[1]}
    return {
        what: {
            name: resistivity(model, test, each, progress=f"{what}, {name}" if progress else None)
            for name, model in models.items()
        }
        for what, each in perturbations.items()
    }


def raised(undefended: Resistivity, defended: Resistivity, first: int) -> Raised:
    """Compare the class tokens behind blocks ``first`` and later, each layer by its own 95 % interval.

    The interval takes the two means as independent. Both are of the same pictures, so it is wider than need be.
    """
    higher, lower, changes = 0, 0, []
    for place, layer in enumerate(undefended.layers):
        if layer < first:
            continue
        change = defended.class_token[place] - undefended.class_token[place]
        spread = sqrt(defended.class_token_std[place] ** 2 + undefended.class_token_std[place] ** 2)
        bound = _ERRORS * spread / sqrt(undefended.count)
        higher, lower = higher + (change > bound), lower + (change < -bound)
        changes.append(change)
    return Raised(higher, lower, len(changes), sum(changes) / len(changes))
