"""``clip-decomp train``: the recipes of the two scales that a machine without a network can train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import DataSet, open_data
from ..data.captioned import is_captioned
from ..data.photographs import PhotographPairs
from ..errors import SettingError
from ..evaluation import evaluate
from ..model import HookedCLIP
from ..models.loading import load_folder, save_folder
from .architecture import Architecture
from .parallel import launched
from .scratch import train_from_scratch
from .streams import pair_stream
from .trainer import TrainSettings

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
) -> tuple[HookedCLIP, dict[str, float], dict[str, Any]] | None:
    """Train on a data set's description and save the model to ``folder``; returns model, metrics and counts.

    Under torchrun only the main process saves and measures; the others return None.

    Args:
        steps: fewer or more than the recipe's.
        patch_dropout: another share of patches to leave out than the recipe's; more makes steps cheaper.
        workers: processes that draw batches ahead.
        pairs: captioned files to train on; the model is measured on ``spec`` all the same.

    Raises:
        SettingError: ``spec`` has captions but no classes to measure.
    """
    from ..zoo.recipes import RECIPES, TrainRecipe

    if is_captioned(spec):
        raise SettingError(f"{spec} has captions but no classes to measure: give it as --pairs and a labelled --data.")
    if pairs is None and spec.split(":")[0] == "world":
        recipe = RECIPES["world/clean"]
        assert isinstance(recipe, TrainRecipe)
        stream, architecture, settings = replace(recipe.stream, seed=seed), recipe.architecture, recipe.settings
        mean, std, name = recipe.mean, recipe.std, "world"
        options: dict[str, Any] = {"mean": mean, "std": std}
    else:
        architecture, settings = Architecture(vocab_size=1500), PHOTOGRAPHS
        stream, _ = pair_stream(pairs or spec, architecture.image_size, seed, measured=spec)
        options = {}
        name = Path(pairs or spec).name.split(":")[0]
    dropout = settings.patch_dropout if patch_dropout is None else patch_dropout
    settings = replace(settings, seed=seed, steps=steps or settings.steps, patch_dropout=dropout)
    if isinstance(stream, PhotographPairs):
        stream = replace(stream, gentle_from=round(_GENTLE_FROM * settings.steps))
    data = open_data(spec, architecture.image_size, seed)
    watched = DataSet(data.test, data.held_out.first(520))

    trained_on = pairs is None and isinstance(stream, PhotographPairs) and data.train is None

    def watch(model: HookedCLIP) -> dict[str, float]:
        # Held-out pictures steer, if there are any beside those; the test pictures are looked at once, at the end.
        accuracy = evaluate(model, watched.held_out).clean_accuracy.value
        return {"trained_on" if trained_on else "held_out": accuracy}

    model = train_from_scratch(
        stream,
        architecture,
        settings,
        name,
        folder=folder / "training",
        monitor=watch,
        device=device,
        workers=workers,
        **options,
    )
    if not launched(torch.device(device)).main:
        return None
    save_folder(model, folder, {**model.card, "name": f"{name}/clean"})
    stored = load_folder(folder).to(device)
    found = evaluate(stored, data.test)
    counts = {"test": len(data.test), "held_out": len(data.held_out), "skipped": len(data.test.skipped)}
    return stored, found.metrics(f"{data.test.name}/clean/none"), counts
