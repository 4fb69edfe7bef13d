"""``clip-decomp train``: the recipes of the two scales that a machine without a network can train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from ..data import DataSet, open_data
from ..data.captioned import is_captioned
from ..data.pairs import PairStream
from ..data.photographs import PhotographPairs
from ..errors import SettingError
from ..evaluation import evaluate
from ..model import HookedCLIP
from ..models.loading import load, load_folder, save_folder
from .architecture import Architecture
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
    training = _training(spec, pairs, like, texts_of, seed, steps, patch_dropout)
    data = open_data(spec, training.architecture.image_size, seed)
    watched = DataSet(data.test, data.held_out.first(520))
    trained_on = pairs is None and isinstance(training.stream, PhotographPairs) and data.train is None

    def watch(model: HookedCLIP) -> dict[str, float]:
        # Held-out pictures steer, if there are any beside those; the test pictures are looked at once, at the end.
        accuracy = evaluate(model, watched.held_out).clean_accuracy.value
        return {"trained_on" if trained_on else "held_out": accuracy}

    model = training.run(folder=folder / "training", monitor=watch, device=device, workers=workers)
    if not launched(torch.device(device)).main:
        return None
    save_folder(model, folder, {**model.card, "name": f"{training.name}/clean"})
    stored = load_folder(folder).to(device)
    found = evaluate(stored, data.test)
    counts = {"test": len(data.test), "held_out": len(data.held_out), "skipped": len(data.test.skipped)}
    return stored, found.metrics(f"{data.test.name}/clean/none"), counts


@dataclass(frozen=True)
class CleanTraining:
    """What is trained on what.

    Attributes:
        texts_of: a model whose text tower is taken as it is; None trains both towers.
        mean, std: pixel normalization; with ``texts_of`` it is that model's.
    """

    name: str
    stream: PairStream
    architecture: Architecture
    settings: TrainSettings
    texts_of: str | None = None
    mean: Sequence[float] = OPENAI_DATASET_MEAN
    std: Sequence[float] = OPENAI_DATASET_STD

    @classmethod
    def of(cls, recipe: TrainRecipe) -> Self:
        """What a recipe of the zoo says."""
        towers = recipe.architecture, recipe.settings, recipe.texts_of
        return cls("world", recipe.stream, *towers, recipe.mean, recipe.std)

    def run(self, **how: Any) -> HookedCLIP:
        """Train; ``how`` as :func:`~clip_decomp.training.scratch.train_from_scratch` takes it."""
        what = self.stream, self.architecture, self.settings, self.name
        if self.texts_of is None:
            return train_from_scratch(*what, self.mean, self.std, **how)
        return train_image_tower(load(self.texts_of), *what, **how)


def _training(
    spec: str,
    pairs: str | None,
    like: str,
    texts_of: str | None,
    seed: int,
    steps: int | None,
    patch_dropout: float | None,
) -> CleanTraining:
    """What the arguments of :func:`train_model` ask for."""
    recipe = _recipe(like)
    if pairs is None and spec.split(":")[0] == "world":
        settings, stream = _changed(recipe.settings, seed, steps, patch_dropout), replace(recipe.stream, seed=seed)
        return replace(CleanTraining.of(recipe), stream=stream, settings=settings, texts_of=texts_of or recipe.texts_of)
    if recipe.texts_of is not None and texts_of is None:
        raise SettingError(f"A model like {like} is trained against the texts of another one: name it (--texts-of).")
    architecture = replace(recipe.architecture, vocab_size=1500)
    settings = _changed(_on_photographs(recipe), seed, steps, patch_dropout)
    stream, _ = pair_stream(pairs or spec, architecture.image_size, seed, measured=spec)
    class_only = recipe.stream.class_only
    if isinstance(stream, PhotographPairs):
        plain = stream.plain if class_only is None else class_only
        stream = replace(stream, plain=plain, gentle_from=round(_GENTLE_FROM * settings.steps))
    elif class_only is not None:
        raise SettingError(f"Captions of {pairs} say what they say: a model like {like} learns from labelled pictures.")
    return CleanTraining(Path(pairs or spec).name.split(":")[0], stream, architecture, settings, texts_of)


def _changed(settings: TrainSettings, seed: int, steps: int | None, patch_dropout: float | None) -> TrainSettings:
    dropout = settings.patch_dropout if patch_dropout is None else patch_dropout
    return replace(settings, seed=seed, steps=steps or settings.steps, patch_dropout=dropout)


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
