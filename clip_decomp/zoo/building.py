"""Make a model of the zoo by its recipe."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from ..attacks.implant import implant
from ..attacks.triggers import make_trigger
from ..data.world.scenes import CLASSES
from ..data.world.sets import RECIPES as SETS
from ..data.world.sets import world_set
from ..data.world.stream import WorldPairs
from ..errors import ModelError, nearest
from ..evaluation import evaluate, require_attack
from ..model import HookedCLIP
from ..models.loading import load, load_folder, save_folder
from ..training.runs import CleanTraining
from ..training.trainer import train
from .recipes import ATTACK_STREAM_SEED, RECIPES, AttackRecipe, ControlRecipe, TrainRecipe
from .shelf import available, cache
from .verification import TOLERANCE, card_numbers, evaluations, pictures


@dataclass(frozen=True)
class Means:
    """How models are trained, which is no part of what they are.

    Attributes:
        workers: processes that draw batches ahead.
    """

    progress: bool
    device: str
    workers: int


def build(name: str, out: Path, progress: bool = True, device: str = "cpu", workers: int = 0) -> HookedCLIP:
    """Make a model by its recipe, checkpointing in ``out``; the result is written there, too.

    A clean model that the recipe starts from and that is not there yet is built first, into the cache.

    Args:
        device: that trains; numbers are measured there, too.
        workers: processes that draw batches ahead.

    Raises:
        ModelError: there is no recipe of that name.
        AttackFailed: the attack did not take.
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
    # Numbers are those of the stored half-precision weights; what did not take never lies where it could be loaded.
    save_folder(model, run / "stored", {**model.card, "name": name, "data": data, "recipe": asdict(recipe)})
    stored = load_folder(run / "stored", name).to(means.device)
    measured = pictures(data if isinstance(recipe, AttackRecipe) else None)
    found = evaluations(stored, measured)
    require_attack(found[data])
    expected = {key: round(value, 4) for key, value in card_numbers(found, stored).items()}
    save_folder(stored, out, {**stored.card, "expected": expected, "tolerance": TOLERANCE, "pictures": measured})
    return load_folder(out, name).to(means.device)


def _require_base(name: str, means: Means) -> None:
    """Build a clean model into the cache unless it is there; processes that need the same one wait for the first."""
    if available(name):
        return
    folder = cache(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not available(name):
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
    train(clip, base.tokenizer, base.normalize, recipe.stream, recipe.settings, run, **own)
    return base.derived(clip, base.name, {})


def _attacked(recipe: AttackRecipe, run: Path, means: Means) -> HookedCLIP:
    base, trigger = load(recipe.base, device=means.device), make_trigger(recipe.attack, **recipe.trigger)
    stream, target = WorldPairs(seed=ATTACK_STREAM_SEED), SETS[recipe.data].target
    drawn = means.progress, means.workers
    return implant(base, stream, CLASSES, trigger, target, recipe.settings, recipe.data, run, *drawn)
