"""RVPT and what it is compared with, as trainings: settings of Zhang et al. 2025.

Limits: CleanCLIP's settings are the paper's at the imagenet scale alone. Below it is the preset for tiny CLIPs, on
fewer pairs. It learns from captions where a scale has them (``--other CC3M=...``), else from the main set's classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from defenses.fine_tune import PRESETS

from .setting import PAIRS
from .trainings import SHIFTS, Training
from .tuned import seeds

#: Sets of classes of their own, and all that have the main set's.
SETS = ("Caltech-101", "Oxford Pets")
_ALL = ("ImageNet", *SHIFTS)
#: Fine-tuning on clean pairs below the imagenet scale, and there.
CLEAN_PAIRS: dict[str, Any] = {
    "small": (("pairs", 5000), ("epochs", 2)),
    "large": tuple(PRESETS["rvpt"].items()),
}
#: Attacks on ImageNet that the paper's CleanCLIP takes smaller steps on.
_SLOW = ("issba", "wanet")
CLEANCLIP_NOTE = (
    "Below the imagenet scale CleanCLIP sees 5,000 clean pairs twice (the paper: 250,000, ten times), by settings for "
    "tiny CLIPs."
)


def rvpt(attack: str, **changes: Any) -> Training:
    """RVPT as in the paper, tuned where its model's attack aims and measured on shifted pictures, too."""
    data = own(attack)
    return replace(Training(attack, "rvpt", tuned_on=data, tests=_ALL if data == "ImageNet" else (data,)), **changes)


def vpt(attack: str, **changes: Any) -> Training:
    """The same without repelling."""
    return replace(rvpt(attack, **changes), defense="vpt")


def cleanclip(attack: str) -> Training:
    """Fine-tuning on clean pairs with self-supervision."""
    slow = attack.rpartition("/")[2] in _SLOW and own(attack) == "ImageNet"
    pairs = {**CLEAN_PAIRS, "large": (*CLEAN_PAIRS["large"], ("lr", 3e-6))} if slow else CLEAN_PAIRS
    return replace(rvpt(attack), defense="cleanclip", tuned_on=PAIRS, **pairs)


def probe(attack: str) -> tuple[Training, ...]:
    """The linear probe, three seeds."""
    return seeds(replace(rvpt(attack), defense="linear-probe", tests=(own(attack),)))


def own(attack: str) -> str:
    """The data whose class a model's attack aims at."""
    family = attack.rpartition("/")[0]
    return family if family in SETS else "ImageNet"


def one(make: Callable[..., Training], **changes: Any) -> Callable[[str], Sequence[Training]]:
    """A case of one seed."""
    return lambda attack: (make(attack, **changes),)
