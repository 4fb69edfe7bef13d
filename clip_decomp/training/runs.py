"""``clip-decomp train``: the recipes of the two scales that a machine without a network can train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..data import DataSet, open_data
from ..data.captioned import is_captioned
from ..data.photographs import PhotographPairs
from ..errors import SettingError
from ..evaluation import evaluate
from ..model import HookedCLIP
from ..models.loading import load, load_folder, save_folder
from .locked import train_image_tower
from .parallel import launched
from .scratch import train_from_scratch
from .streams import pair_stream
from .trainer import TrainSettings

if TYPE_CHECKING:
    from ..zoo.recipes import TrainRecipe

#: Photographs: half of the patches are left out of each picture until the last tenth of the run.
PHOTOGRAPHS = TrainSettings(steps=3000, batch_size=256, lr=1e-3, muon_lr=2e-3, decay=0.44, patch_dropout=0.5)
_GENTLE_FROM = 0.78


def train_model(
    spec: str,
    folder: Path,
    seed: int = 0,
    steps: int | None = None,
    device: str = "cpu",
    pairs: str | None = None,
    patch_dropout: float | None = None,
    workers: int = 0,
    like: str = "world/clean",
    texts_of: str | None = None,
) -> tuple[HookedCLIP, dict[str, float], dict[str, Any]] | None:
    """Train on a data set's description and save the model to ``folder``; returns model, metrics and counts.

    Under torchrun only the main process saves and measures; the others return None.

    Args:
        steps: fewer or more than the recipe's.
        patch_dropout: another share of patches to leave out than the recipe's; more makes steps cheaper.
        workers: processes that draw batches ahead.
        pairs: captioned files to train on; the model is measured on ``spec`` all the same.
        like: the clean model of the zoo whose architecture, optimizer and kind of captions are taken.
        texts_of: a model whose text tower is taken and left as it is, so that only the image tower is trained.

    Raises:
        SettingError: ``spec`` has captions but no classes to measure, or what ``like`` says cannot be done.
    """
    if is_captioned(spec):
        raise SettingError(f"{spec} has captions but no classes to measure: give it as --pairs and a labelled --data.")
    recipe = _recipe(like)
    if pairs is None and spec.split(":")[0] == "world":
        stream, architecture, settings = replace(recipe.stream, seed=seed), recipe.architecture, recipe.settings
        name, texts_of = "world", texts_of or recipe.texts_of
        options: dict[str, Any] = {"mean": recipe.mean, "std": recipe.std}
    else:
        if recipe.texts_of is not None and texts_of is None:
            raise SettingError(
                f"A model like {like} is trained against the texts of another one: name it (--texts-of)."
            )
        architecture, settings = replace(recipe.architecture, vocab_size=1500), _on_photographs(recipe)
        stream, _ = pair_stream(pairs or spec, architecture.image_size, seed, measured=spec)
        options = {}
        name = Path(pairs or spec).name.split(":")[0]
    dropout = settings.patch_dropout if patch_dropout is None else patch_dropout
    settings = replace(settings, seed=seed, steps=steps or settings.steps, patch_dropout=dropout)
    if isinstance(stream, PhotographPairs):
        plain = stream.plain if recipe.stream.class_only is None else recipe.stream.class_only
        stream = replace(stream, plain=plain, gentle_from=round(_GENTLE_FROM * settings.steps))
    elif pairs is not None and recipe.stream.class_only is not None:
        raise SettingError(f"Captions of {pairs} say what they say: a model like {like} learns from labelled pictures.")
    data = open_data(spec, architecture.image_size, seed)
    watched = DataSet(data.test, data.held_out.first(520))

    trained_on = pairs is None and isinstance(stream, PhotographPairs) and data.train is None

    def watch(model: HookedCLIP) -> dict[str, float]:
        # Held-out pictures steer, if there are any beside those; the test pictures are looked at once, at the end.
        accuracy = evaluate(model, watched.held_out).clean_accuracy.value
        return {"trained_on" if trained_on else "held_out": accuracy}

    run = {"folder": folder / "training", "monitor": watch, "device": device, "workers": workers}
    if texts_of is None:
        model = train_from_scratch(stream, architecture, settings, name, **options, **run)
    else:
        model = train_image_tower(load(texts_of), stream, architecture, settings, name, **run)
    if not launched(torch.device(device)).main:
        return None
    save_folder(model, folder, {**model.card, "name": f"{name}/clean"})
    stored = load_folder(folder).to(device)
    found = evaluate(stored, data.test)
    counts = {"test": len(data.test), "held_out": len(data.held_out), "skipped": len(data.test.skipped)}
    return stored, found.metrics(f"{data.test.name}/clean/none"), counts


def _recipe(like: str) -> TrainRecipe:
    """The zoo's recipe of a clean model.

    Raises:
        SettingError: there is none of that name.
    """
    from ..zoo.recipes import RECIPES, TrainRecipe

    recipe = RECIPES.get(like)
    if not isinstance(recipe, TrainRecipe):
        known = [name for name, each in RECIPES.items() if isinstance(each, TrainRecipe)]
        raise SettingError(f"The zoo has no recipe of a clean model {like!r}: choose from {', '.join(known)}.")
    return recipe


def _on_photographs(recipe: TrainRecipe) -> TrainSettings:
    """A recipe's optimizer, as long as photographs take; patches are left out of a transformer only."""
    own = {"steps": PHOTOGRAPHS.steps, "batch_size": PHOTOGRAPHS.batch_size, "decay": PHOTOGRAPHS.decay}
    dropout = 0.0 if recipe.architecture.is_resnet else PHOTOGRAPHS.patch_dropout
    return replace(recipe.settings, **own, patch_dropout=dropout)
