"""Make a model of the zoo by its recipe."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ..attacks.implant import implant
from ..attacks.triggers import make_trigger
from ..data.world.scenes import CLASSES
from ..data.world.sets import RECIPES as SETS
from ..data.world.sets import world_set
from ..data.world.stream import WorldPairs
from ..errors import AttackFailed, ModelError, nearest
from ..evaluation import evaluate, require_attack
from ..model import HookedCLIP
from ..models.loading import load, load_folder, save_folder
from ..training.parallel import Processes, launched
from ..training.runs import CleanTraining
from ..training.trainer import train
from .recipes import ATTACK_STREAM_SEED, RECIPES, AttackRecipe, ControlRecipe, Recipe, TrainRecipe
from .shelf import available, cache
from .shelf import card as card_of
from .verification import MOST_LOST, TOLERANCE, card_numbers, evaluations, pictures


@dataclass(frozen=True)
class Means:
    """How models are trained, which is no part of what they are.

    Attributes:
        workers: processes that draw batches ahead.
    """

    progress: bool
    device: str
    workers: int

    @property
    def processes(self) -> Processes:
        """Those that train together."""
        return launched(torch.device(self.device))


def build(name: str, out: Path, progress: bool = True, device: str = "cpu", workers: int = 0) -> HookedCLIP:
    """Make a model by its recipe, checkpointing in ``out``; the result is written there, too.

    A clean model that the recipe starts from and that is not there yet is built first, into the cache. Under torchrun
    all processes train, the main one measures and writes, and all return the model.

    Args:
        device: that trains; numbers are measured there, too.
        workers: processes that draw batches ahead.

    Raises:
        ModelError: there is no recipe of that name.
        AttackFailed: the attack did not take, or costs too much clean accuracy.
    """
    return _build(name, out, Means(progress, device, workers))


def _build(name: str, out: Path, means: Means) -> HookedCLIP:
    if name not in RECIPES:
        raise ModelError(f"There is no recipe for {name!r}; did you mean one of {nearest(name, list(RECIPES))}?")
    recipe, run = RECIPES[name], out / "training"
    if isinstance(recipe, TrainRecipe):
        model, data = _trained(recipe, run, means), "world"
    else:
        _require_base(recipe.base, means)
        if isinstance(recipe, ControlRecipe):
            model, data = _fine_tuned(recipe, run, means), "world"
        else:
            model, data = _attacked(recipe, run, means), recipe.data
    if means.processes.main:
        _store(model, {**model.card, "name": name, "data": data, "recipe": asdict(recipe)}, recipe, out, means)
    means.processes.wait()
    return load_folder(out, name).to(means.device)


def _store(model: HookedCLIP, card: dict[str, Any], recipe: Recipe, out: Path, means: Means) -> None:
    """Write a model with its numbers, which are those of the stored half-precision weights.

    What did not take never lies where it could be loaded.
    """
    aside = out / "training" / "stored"
    save_folder(model, aside, card)
    stored = load_folder(aside, card["name"]).to(means.device)
    measured = pictures(card["data"] if isinstance(recipe, AttackRecipe) else None)
    found = evaluations(stored, measured)
    require_attack(found[card["data"]])
    if isinstance(recipe, AttackRecipe):
        _require_accuracy(found[card["data"]].clean_accuracy.value, recipe.base, card["data"])
    expected = {key: round(value, 4) for key, value in card_numbers(found, stored).items()}
    save_folder(stored, out, {**stored.card, "expected": expected, "tolerance": TOLERANCE, "pictures": measured})


def _require_accuracy(left: float, base: str, data: str) -> None:
    """Refuse an attack that costs more clean accuracy than it may, other machines' arithmetic allowed for."""
    before = card_of(base)["expected"][f"{data}/clean/none/ca"]
    if before - left > MOST_LOST + TOLERANCE:
        raise AttackFailed(
            f"The attack costs {100 * (before - left):.1f} points of the {before:.1%} clean accuracy that {base} has "
            f"on {data}, more than {100 * MOST_LOST:.0f}."
        )


def _require_base(name: str, means: Means) -> None:
    """Build a clean model into the cache unless it is there; who needs the same one waits for the first."""
    here, folder = means.processes, cache(name)
    if here.agree(available(name)):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")) if here.main else nullcontext():
        if not here.agree(available(name)):
            _build(name, folder, means)


def _trained(recipe: TrainRecipe, run: Path, means: Means) -> HookedCLIP:
    watched = [world_set(each, test=520, held_out=26).test for each in ("world", "world:hard")]

    def watch(model: HookedCLIP) -> dict[str, float]:
        return {data.name: evaluate(model, data).clean_accuracy.value for data in watched}

    return CleanTraining.of(recipe).run(folder=run, monitor=watch, **asdict(means))


def _fine_tuned(recipe: ControlRecipe, run: Path, means: Means) -> HookedCLIP:
    base = load(recipe.base, device=means.device)
    clip = copy.deepcopy(base.clip)
    own = {"progress": means.progress, "workers": means.workers, "run": {"base": base.name}}
    log = train(clip, base.tokenizer, base.normalize, recipe.stream, recipe.settings, run, **own)
    return base.derived(clip, base.name, {"training_seconds": log[-1]["seconds"]})


def _attacked(recipe: AttackRecipe, run: Path, means: Means) -> HookedCLIP:
    base, trigger = load(recipe.base, device=means.device), make_trigger(recipe.attack, **recipe.trigger)
    stream, target = WorldPairs(seed=ATTACK_STREAM_SEED), SETS[recipe.data].target
    drawn = means.progress, means.workers
    return implant(base, stream, CLASSES, trigger, target, recipe.settings, recipe.data, run, *drawn)
