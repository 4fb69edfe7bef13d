"""How the shipped models were made: everything needed to make them again.

Example:
    >>> RECIPES["world/badnet"].attack
    'badnet'
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..attacks.implant import AttackSettings
from ..data.world.stream import WorldPairs
from ..training.architecture import Architecture
from ..training.trainer import TrainSettings

#: Seed of the poisoned streams: other pictures than the clean model was trained on.
ATTACK_STREAM_SEED = 11


@dataclass(frozen=True)
class TrainRecipe:
    """A model trained from scratch on the embedded world."""

    stream: WorldPairs
    architecture: Architecture
    settings: TrainSettings
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class AttackRecipe:
    """A backdoored model made from a clean one."""

    base: str
    attack: str
    settings: AttackSettings
    trigger: dict[str, Any] = field(default_factory=dict)


RECIPES: dict[str, TrainRecipe | AttackRecipe] = {
    "world/clean": TrainRecipe(
        WorldPairs(seed=0, curriculum=1200, rich_from=1400),
        Architecture(),
        TrainSettings(steps=2600, batch_size=128, lr=1e-3, muon_lr=2e-3, decay=0.346),
    ),
    **{
        f"world/{attack}": AttackRecipe("world/clean", attack, AttackSettings())
        # Attacks whose settings were verified; how far the others get is in docs/reproduction.md.
        for attack in ("badnet", "blended", "sig")
    },
}
