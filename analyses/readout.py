"""Surplus knowledge: what a CLIP knows of the embedded world beyond the class.

A linear read-out (logistic regression on standardized features) of every factor, trained on pictures of the main set
and tested on fresh ones, beside chance: the share of the most frequent value.

Example:
    >>> import clip_decomp
    >>> found = readout(clip_decomp.load("world/clean"), train=300, test=100)
    >>> sorted(found)
    ['background', 'class', 'color', 'position', 'size', 'texture']
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from clip_decomp.contributions import pictures
from clip_decomp.data.sets import ImageSet
from clip_decomp.data.world.scenes import FACTORS
from clip_decomp.data.world.sets import world_scenes, world_split
from clip_decomp.evaluation import Rate, rate
from clip_decomp.model import HookedCLIP

#: Everything but the number of marks, which is clutter.
READ = FACTORS[:-1]


@dataclass(frozen=True)
class Readout:
    """Accuracy of a factor's linear read-out, and the share of its most frequent value."""

    accuracy: Rate
    chance: float


@dataclass(frozen=True)
class Reader:
    """A fitted linear read-out of one factor."""

    pipeline: Pipeline

    def predict(self, features: Float[Tensor, "image d_embed"]) -> Int[Tensor, " image"]:
        """The most likely value for each picture."""
        return torch.from_numpy(self.pipeline.predict(features.numpy()))

    def cross_entropy(self, features: Float[Tensor, "image d_embed"], truth: Int[Tensor, " image"]) -> float:
        """Mean negative log-probability of the true values, in nats; values never seen in training are left out."""
        columns = {int(value): place for place, value in enumerate(self.pipeline.classes_)}
        seen = [k for k, value in enumerate(truth.tolist()) if value in columns]
        places = [columns[value] for value in truth[seen].tolist()]
        return float(-self.pipeline.predict_log_proba(features.numpy())[seen, places].mean())


def fit_reader(features: Float[Tensor, "image d_embed"], values: Int[Tensor, " image"]) -> Reader:
    """Logistic regression on standardized features."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return Reader(pipeline.fit(features.numpy(), values.numpy()))


def readout(model: HookedCLIP, train: int = 4000, test: int = 2000, seed: int = 0) -> dict[str, Readout]:
    """Read every factor from the model's image features."""
    (known, known_factors), (fresh, fresh_factors) = (
        (_features(model, world_split("world", split, n, seed)), world_scenes("world", split, n, seed).factors)
        for split, n in (("train", train), ("test", test))
    )
    found = {}
    for column, name in enumerate(READ):
        targets, truth = known_factors[:, column], fresh_factors[:, column]
        guesses = fit_reader(known, targets).predict(fresh)
        chance = float((truth == targets.mode().values).float().mean())
        found[name] = Readout(rate(int((guesses == truth).sum()), test), chance)
    return found


@torch.no_grad()
def _features(model: HookedCLIP, data: ImageSet) -> Float[Tensor, "image d_embed"]:
    encoded = [model.encode_image(model.normalize(pixels), normalize=True).cpu() for pixels, _, _ in pictures(data)]
    return torch.cat(encoded)
