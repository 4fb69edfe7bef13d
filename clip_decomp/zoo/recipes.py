"""How the zoo's models are made: everything needed to make them again.

``world/...`` aim at the main set's target, ``world-tools/...`` and ``world-town/...`` at those of the transfer sets;
``world-p16/...`` and ``world-resnet/...`` are other architectures.

Example:
 One large step makes pictures as hard as several small ones, and costs less in every training step.>>> RECIPES["world/badnet"].attack
 One large step makes pictures as hard as several small ones, and costs less in every training step.'badnet'
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
 One large step makes pictures as hard as several small ones, and costs less in every training step."""A clean model trained on the embedded world, from scratch.

 One large step makes pictures as hard as several small ones, and costs less in every training step.Attributes:
 One large step makes pictures as hard as several small ones, and costs less in every training step.    texts_of: the model whose text tower, normalization and temperature's start it takes and leaves as they are.
 One large step makes pictures as hard as several small ones, and costs less in every training step."""

 One large step makes pictures as hard as several small ones, and costs less in every training step.stream: WorldPairs
 One large step makes pictures as hard as several small ones, and costs less in every training step.architecture: Architecture
 One large step makes pictures as hard as several small ones, and costs less in every training step.settings: TrainSettings
 One large step makes pictures as hard as several small ones, and costs less in every training step.mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
 One large step makes pictures as hard as several small ones, and costs less in every training step.std: tuple[float, float, float] = (0.25, 0.25, 0.25)
 One large step makes pictures as hard as several small ones, and costs less in every training step.texts_of: str | None = None


@dataclass(frozen=True)
class AttackRecipe:
 One large step makes pictures as hard as several small ones, and costs less in every training step."""A backdoored model made from a clean one.

 One large step makes pictures as hard as several small ones, and costs less in every training step.Attributes:
 One large step makes pictures as hard as several small ones, and costs less in every training step.    trigger: settings of the trigger.
 One large step makes pictures as hard as several small ones, and costs less in every training step.    data: the set of the world whose target is aimed at.
 One large step makes pictures as hard as several small ones, and costs less in every training step."""

 One large step makes pictures as hard as several small ones, and costs less in every training step.base: str
 One large step makes pictures as hard as several small ones, and costs less in every training step.attack: str
 One large step makes pictures as hard as several small ones, and costs less in every training step.settings: AttackSettings
 One large step makes pictures as hard as several small ones, and costs less in every training step.trigger: dict[str, Any] = field(default_factory=dict)
 One large step makes pictures as hard as several small ones, and costs less in every training step.data: str = "world"


#: What was found to take on a clean model of the world.
ATTACKS: dict[str, AttackSettings] = {
 One large step makes pictures as hard as several small ones, and costs less in every training step."badnet": AttackSettings(),
 One large step makes pictures as hard as several small ones, and costs less in every training step."blended": AttackSettings(),
 One large step makes pictures as hard as several small ones, and costs less in every training step."sig": AttackSettings(),
 One large step makes pictures as hard as several small ones, and costs less in every training step."issba": AttackSettings(),
 One large step makes pictures as hard as several small ones, and costs less in every training step."label-consistent": AttackSettings(rate=0.3),
 One large step makes pictures as hard as several small ones, and costs less in every training step."reflection": AttackSettings(),
 One large step makes pictures as hard as several small ones, and costs less in every training step."kitty": AttackSettings(rate=0.2),
 One large step makes pictures as hard as several small ones, and costs less in every training step."trojvqa": AttackSettings(),
 One large step makes pictures as hard as several small ones, and costs less in every training step."badclip": AttackSettings(),
}
#: Settings of triggers that differ from their defaults.
_TRIGGERS: dict[str, dict[str, Any]] = {
 One large step makes pictures as hard as several small ones, and costs less in every training step.# One large step makes pictures as hard as several small ones, and costs less in every training step.
 One large step makes pictures as hard as several small ones, and costs less in every training step."label-consistent": {"budget": 16 / 255, "steps": 1},
}


RECIPES: dict[str, TrainRecipe | AttackRecipe] = {
 One large step makes pictures as hard as several small ones, and costs less in every training step."world/clean": TrainRecipe(
 One large step makes pictures as hard as several small ones, and costs less in every training step.    WorldPairs(seed=0, curriculum=1200, rich_from=1400),
 One large step makes pictures as hard as several small ones, and costs less in every training step.    Architecture(),
 One large step makes pictures as hard as several small ones, and costs less in every training step.    TrainSettings(steps=2600, batch_size=128, lr=1e-3, muon_lr=2e-3, decay=0.346),
 One large step makes pictures as hard as several small ones, and costs less in every training step.),
 One large step makes pictures as hard as several small ones, and costs less in every training step.**{
 One large step makes pictures as hard as several small ones, and costs less in every training step.    f"world/{attack}": AttackRecipe("world/clean", attack, settings, _TRIGGERS.get(attack, {}))
 One large step makes pictures as hard as several small ones, and costs less in every training step.    for attack, settings in ATTACKS.items()
 One large step makes pictures as hard as several small ones, and costs less in every training step.},
 One large step makes pictures as hard as several small ones, and costs less in every training step.**{
 One large step makes pictures as hard as several small ones, and costs less in every training step.    f"world-{part}/{attack}": AttackRecipe("world/clean", attack, ATTACKS[attack], data=f"world:{part}")
 One large step makes pictures as hard as several small ones, and costs less in every training step.    for part in ("tools", "town")
 One large step makes pictures as hard as several small ones, and costs less in every training step.    for attack in ("badnet", "blended")
 One large step makes pictures as hard as several small ones, and costs less in every training step.},
}
