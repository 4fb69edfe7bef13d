"""What the papers' public code does differently from the mathematics, in one place.

``exact`` is the decomposition as derived: every component centered by itself, biases one term of their own, nothing
divided. ``paper`` follows the public code of Gandelsman et al. (2024) and He et al. (2025): the stream's mean and beta
spread over the 2L+1 parts, output biases over their own layer's tokens and heads, everything divided by the norm of the
representation, the embedding counted as entry 0 of the MLPs, and the attack success rate taken over all triggered
images, those of the target class included.

Example:
    >>> convention("paper").embedding_is_mlp
    True
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import SettingError


@dataclass(frozen=True)
class Convention:
    """See the module.

    Attributes:
        spread: spread mean and biases over the components instead of keeping a ``bias`` term.
        divide_by_norm: divide contributions by the norm of the image's representation.
        embedding_is_mlp: sweeps over MLPs start with the embedding as entry 0.
        asr_includes_target: count triggered images of the target class in the attack success rate.
    """

    name: str
    spread: bool
    divide_by_norm: bool
    embedding_is_mlp: bool
    asr_includes_target: bool


EXACT = Convention("exact", spread=False, divide_by_norm=False, embedding_is_mlp=False, asr_includes_target=False)
PAPER = Convention("paper", spread=True, divide_by_norm=True, embedding_is_mlp=True, asr_includes_target=True)


def convention(name: str | Convention) -> Convention:
    """``exact`` or ``paper`` by name.

    Raises:
        SettingError: another name.
    """
    if isinstance(name, Convention):
        return name
    for known in (EXACT, PAPER):
        if known.name == name:
            return known
    raise SettingError(f"There is no convention {name!r}: use 'exact' or 'paper'.")
