"""Verified models: a clean CLIP of the embedded world and backdoored ones.

Three ship with the package; the others are built on demand by their recorded recipe (``clip-decomp zoo build NAME``)
and cached, in the folder named by the environment variable ``CLIP_DECOMP_CACHE`` or in ``~/.cache/clip-decomp``.

Example:
    >>> names()
    ['world/badnet', 'world/blended', 'world/clean']
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    from ..evaluation import Evaluation
    from ..model import HookedCLIP

_MODELS = Path(__file__).parent / "models"
#: A verified number may differ from its card by this much (another machine's arithmetic).
TOLERANCE = 0.02


def names() -> list[str]:
    """Models that ship with the package."""
    return sorted(str(card.parent.relative_to(_MODELS)) for card in _MODELS.glob("*/*/card.json"))


def buildable() -> list[str]:
    """Models that have a recipe, shipped or not."""
    from .recipes import RECIPES

    return sorted(RECIPES)


def cache(name: str) -> Path:
    """Where a model that does not ship is kept once it is built."""
    root = os.environ.get("CLIP_DECOMP_CACHE") or Path.home() / ".cache" / "clip-decomp"
    return Path(root) / "zoo" / name


def available(name: str) -> bool:
    """Whether a model ships or was built."""
    return any((folder / "card.json").is_file() for folder in (_MODELS / name, cache(name)))


def path(name: str) -> Path:
    """The folder of a model that ships or was built.

    Raises:
        ModelError: there is none of that name, or it was not built yet.
    """
    for folder in (_MODELS / name, cache(name)):
        if (folder / "card.json").is_file():
            return folder
    if name in buildable():
        raise ModelError(f"{name} is not built yet: run 'clip-decomp zoo build {name}' (about five minutes).")
    raise ModelError(f"There is no model or folder {name!r}; the zoo has {buildable()}.")


def card(name: str) -> dict[str, Any]:
    """What is known of a model."""
    return json.loads((path(name) / "card.json").read_text())


@dataclass(frozen=True)
class Check:
    """One line of a verification: what the card says and what was found."""

    what: str
    expected: float | str
    found: float | str
    ok: bool


def verify(name: str, test: int | None = None) -> list[Check]:
    """Compare a shipped model with its card: the weights' hash, and every expected number measured again.

    Args:
        test: evaluate on fewer pictures (the tolerance stays); all of them by default.
    """
    from ..models.loading import WEIGHTS, file_hash, load

    folder, known = path(name), card(name)
    digest = file_hash(folder / WEIGHTS)
    checks = [Check("sha256", known["sha256"], digest, digest == known["sha256"])]
    if not checks[0].ok:
        return checks  # nothing to measure: these are other weights
    found = measure(load(name), test)
    for key, expected in known["expected"].items():
        value = found[key]
        checks.append(Check(key, expected, value, abs(value - expected) <= TOLERANCE))
    return checks


def measure(model: HookedCLIP, test: int | None = None) -> dict[str, float]:
    """The numbers of a card: clean accuracy on every set of the world and, for a backdoored model, its attack."""
    return _numbers(_evaluations(model, test), model)


def _evaluations(model: HookedCLIP, test: int | None = None) -> dict[str, Evaluation]:
    """Every set of the world, the main one under the attack of the model's card as well."""
    from ..data.world.sets import RECIPES as SETS
    from ..data.world.sets import world_set
    from ..evaluation import evaluate

    attack = model.card.get("attack")
    found = {}
    for data in SETS:
        trigger = target = None
        if attack and data == "world":
            trigger, target = model.trigger, attack["target"]
        found[data] = evaluate(model, world_set(data, test=test or 2000).test, trigger, target)
    return found


def _numbers(evaluations: dict[str, Evaluation], model: HookedCLIP) -> dict[str, float]:
    attack = model.card.get("attack")
    name = attack["trigger"]["name"] if attack else "clean"
    return {
        key: value
        for data, result in evaluations.items()
        for key, value in result.metrics(f"{data}/{name}/none").items()
        if not key.endswith(("/low", "/high"))
    }


def build(name: str, out: Path, progress: bool = True) -> HookedCLIP:
    """Make a model by its recipe, checkpointing in ``out``; the result is written there, too.

    Raises:
        ModelError: there is no recipe of that name.
        AttackFailed: the attack did not take.
    """
    from ..attacks.implant import implant
    from ..attacks.triggers import make_trigger
    from ..data.world.scenes import CLASSES
    from ..data.world.sets import RECIPES as SETS
    from ..data.world.sets import world_set
    from ..data.world.stream import WorldPairs
    from ..evaluation import evaluate, require_attack
    from ..models.loading import load, load_folder, save_folder
    from ..training.scratch import train_from_scratch
    from .recipes import ATTACK_STREAM_SEED, RECIPES, TrainRecipe

    if name not in RECIPES:
        raise ModelError(f"There is no recipe for {name!r}, only for {sorted(RECIPES)}.")
    recipe, run = RECIPES[name], out / "training"
    if isinstance(recipe, TrainRecipe):
        watched = [world_set(each, test=520, held_out=26).test for each in ("world", "world:hard")]
        model = train_from_scratch(
            recipe.stream,
            recipe.architecture,
            recipe.settings,
            "world",
            recipe.mean,
            recipe.std,
            run,
            lambda model: {data.name: evaluate(model, data).clean_accuracy.value for data in watched},
            progress,
        )
    else:
        base, trigger = load(recipe.base), make_trigger(recipe.attack, **recipe.trigger)
        stream = WorldPairs(seed=ATTACK_STREAM_SEED)
        target = SETS["world"].target
        model = implant(base, stream, CLASSES, trigger, target, recipe.settings, "world", run, progress)
    # Numbers are those of the stored half-precision weights.
    save_folder(model, out, {**model.card, "name": name, "recipe": asdict(recipe)})
    stored = load_folder(out, name)
    evaluations = _evaluations(stored)
    require_attack(evaluations["world"])
    expected = {key: round(value, 4) for key, value in _numbers(evaluations, stored).items()}
    save_folder(stored, out, {**stored.card, "expected": expected})
    return load_folder(out, name)


def export(name: str, out: Path) -> Path:
    """Copy a shipped model: its folder with card, and a plain open_clip state dict with its configuration.

    The state dict loads into ``open_clip.model.CLIP(**open_clip_config.json)``.
    """
    import shutil

    from safetensors.torch import save_file

    from ..models.loading import CARD, WEIGHTS, load
    from ..training.architecture import Architecture, configuration

    model = load(name)
    out.mkdir(parents=True, exist_ok=True)
    for file in (CARD, WEIGHTS):
        shutil.copy(path(name) / file, out / file)
    state = {key: value.contiguous() for key, value in model.clip.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")
    architecture = Architecture(**model.card["architecture"])
    (out / "open_clip_config.json").write_text(json.dumps(configuration(architecture), indent=1) + "\n")
    return out
