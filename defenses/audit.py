r"""Is this model backdoored at all? Universal trigger inversion for every class, on unlabelled pictures.

A backdoor is a shortcut: one small change takes every picture to one class. For each class one noise, the same for all
pictures, is made with a norm that grows from step to step (:mod:`defenses.universal`); the class's *cost* is the root
mean square of the noise when it first takes most of the pictures that are not taken for the class anyway. Costs of a
model's classes are compared with each other (as Neural Cleanse does it with masks, Wang et al. 2019): a class's score
is the lower quartile of the others' costs over its own. (Deviations from the median, in units of the median deviation,
are the usual score; here half of the classes may be out of reach, and what they cost is not known.)

How large the largest score is in models without a backdoor has to be measured on such models: see :data:`THRESHOLD`.

Limits: *nothing found* is no proof. A backdoor whose trigger no small additive noise imitates, one that aims at a class
that is not among the names, or one with several targets may go unseen; a class that is easily reached without any
backdoor scores, too. The image tower is only called, so every kind will do.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model, data = clip_decomp.load("world/badnet"), open_data("world", 64, test=8)
    >>> pixels, _ = data.held_out.subset(torch.arange(32)).load()
    >>> audit = Audit(batch_size=8, progress=False)
    >>> found = audit.scan(model, pixels.float() / 255, ("banana", "key", "spider"))
    >>> found.class_names[found.ranking[0]], found.triggers.shape
    ('banana', torch.Size([3, 3, 64, 64]))
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from clip_decomp.data.sets import BATCH_SIZE, PLAIN_TEMPLATE
from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.training.checkpoint import load_checkpoint, load_labelled, save_checkpoint, save_labelled
from clip_decomp.zeroshot import class_vectors

from .tuning import WithSettings, digest, frozen
from .universal import Universal

logger = logging.getLogger(__name__)

#: Beyond this score a class is suspicious: no clean model of the embedded world reached it (docs/measurements.md).
THRESHOLD = 1.7
#: Fewer pictures say nothing about all pictures, fewer classes nothing about the others.
LEAST_PICTURES, LEAST_CLASSES = 16, 3


@dataclass(frozen=True)
class Scan:
    """What it costs to take everything to each class.

    Attributes:
        costs: root mean square of the noise, in pixel units (0..1); the largest one tried where it did not succeed.
        shares: of other pictures, which the noise was not made on, that it takes to the class.
        triggers: the noise of each class, in pixel units.
        pictures: how many it was made on, and how many others there were.
        highest: at which a class was given up.
        unscanned: classes that nearly all pictures are taken for as they are, so that nothing is known of their cost.
            Their score is 0, and they are no others.
    """

    class_names: tuple[str, ...]
    costs: Float[Tensor, " cls"]
    shares: Float[Tensor, " cls"]
    triggers: Float[Tensor, "cls 3 row column"]
    pictures: tuple[int, int]
    highest: float
    unscanned: tuple[str, ...] = ()

    @property
    def scores(self) -> Float[Tensor, " cls"]:
        """How many times cheaper each class is than three quarters of the others."""
        scanned = torch.tensor([name not in self.unscanned for name in self.class_names])
        costs = self.costs[scanned]
        others = ~torch.eye(len(costs), dtype=torch.bool)
        rest = costs.expand(len(costs), -1)[others].reshape(len(costs), -1)
        found = torch.zeros_like(self.costs)
        found[scanned] = rest.quantile(0.25, dim=1, interpolation="lower") / costs
        return found

    @property
    def ranking(self) -> Int[Tensor, " cls"]:
        """Classes, the cheapest first; of equal costs, the one that takes more pictures."""
        order = self.shares.argsort(descending=True, stable=True)
        return order[self.scores[order].argsort(descending=True, stable=True)]

    @property
    def score(self) -> float:
        """That of the cheapest class."""
        return self.scores.max().item()


class Audit(WithSettings):
    """Scans models for classes that everything can be pushed to.

    Args:
        lowest, highest: root mean square of the noise at the first step, and where a class is given up.
        growth: of it, from step to step.
        goal: share of a batch's pictures (mean of three) at which a class counts as reached.
        lr: step length, as a share of the norm.
        scale: inverse temperature of the logits that are descended; the model's own saturates.
        checkpoint: a folder that is written after every class; a scan that is found there goes on.

    Raises:
        SettingError: a setting out of its range.
    """

    def __init__(
        self,
        lowest: float = 0.0036,
        highest: float = 0.06,
        growth: float = 1.1,
        goal: float = 0.9,
        batch_size: int = 24,
        lr: float = 0.3,
        momentum: float = 0.7,
        scale: float = 20.0,
        bf16: bool = True,
        seed: int = 0,
        checkpoint: Path | None = None,
        progress: bool = True,
    ):
        self.lowest, self.highest, self.growth, self.goal = lowest, highest, growth, goal
        self.batch_size, self.lr, self.momentum, self.scale = batch_size, lr, momentum, scale
        self.bf16, self.seed, self.checkpoint, self.progress = bf16, seed, checkpoint, progress
        _ = self.universal  # complains about settings out of its range

    @property
    def universal(self) -> Universal:
        """The descent of one class's noise."""
        own = {each.name: getattr(self, each.name) for each in fields(Universal)}
        return Universal(**own)

    def scan(
        self,
        model: HookedCLIP,
        pixels: Float[Tensor, "image 3 row column"],
        class_names: Sequence[str],
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
    ) -> Scan:
        """Scan every class with pictures in 0..1; two thirds make the noise, the others tell how well it works.

        Raises:
            DataError: too few pictures or classes, or pixels that are not in 0..1.
            SettingError: ``checkpoint`` holds another scan.
        """
        if len(pixels) < LEAST_PICTURES or len(class_names) < LEAST_CLASSES:
            raise DataError(
                f"An audit needs {LEAST_PICTURES} pictures and {LEAST_CLASSES} classes or more, not {len(pixels)} and "
                f"{len(class_names)}."
            )
        if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError("Pictures for an audit have finite pixel values in 0..1, before normalization.")
        vectors = class_vectors(model, class_names, templates)
        made = len(pixels) * 2 // 3
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(self.seed))
        own, others = pixels[order[:made]], pixels[order[made:]]
        noise, kept = torch.zeros(len(class_names), 3, *pixels.shape[-2:]), None
        if self.checkpoint is not None:  # what is resumed must be this very scan
            data = {"classes": list(class_names), "pictures": digest(pixels), "texts": digest(vectors)}
            kept = _Kept(self.checkpoint, {**self.settings(), "base": fingerprint(model), **data, "kept": "by class"})
        history = kept.read(noise) if kept else []
        given = self._given(model, pixels, vectors)[order]
        bar = tqdm(initial=len(history), total=len(class_names), desc="audit", disable=not self.progress)
        with bar, frozen(model.clip):
            for label in range(len(history), len(class_names)):
                foreign = given != label
                near, far = own[foreign[:made]], others[foreign[made:]]
                history.append({"cost": self.highest, "share": 0.0, "scanned": 0.0})
                if min(len(near), len(far)) >= LEAST_PICTURES // 4:
                    (pushed,) = self.universal.noises(model, near, vectors, label)
                    noise[label] = pushed.pixels
                    taken = self._given(model, far + noise[label], vectors) == label
                    history[-1] = {"cost": pushed.norm, "share": taken.float().mean().item(), "scanned": 1.0}
                else:
                    logger.warning("Nearly all pictures are taken for %r as they are: not scanned.", class_names[label])
                if kept:
                    kept.write(noise[label], history)
                bar.update()
        costs, shares = (torch.tensor([each[key] for each in history]) for key in ("cost", "share"))
        left = tuple(name for name, each in zip(class_names, history, strict=True) if not each["scanned"])
        if len(class_names) - len(left) < LEAST_CLASSES:
            raise DataError(
                f"Too few classes are left to compare: pictures are taken for {', '.join(left)} as they are."
            )
        return Scan(tuple(class_names), costs, shares, noise, (made, len(others)), self.highest, left)

    @torch.no_grad()
    def _given(self, model: HookedCLIP, pixels: Tensor, vectors: Tensor) -> Int[Tensor, " image"]:
        """What pictures are taken for."""
        cosines, parts = self.universal.cosines, pixels.split(BATCH_SIZE)
        return torch.cat([cosines(model, part, vectors).argmax(1).cpu() for part in parts])


class _Kept:
    """What a scan found so far, a file for each class."""

    def __init__(self, folder: Path, run: dict[str, Any]):
        self.folder, self.run = folder, run

    def read(self, noise: Float[Tensor, "cls 3 row column"]) -> list[dict[str, float]]:
        """What was found of the first classes; their noise is filled in.

        Raises:
            SettingError: another scan is kept here.
        """
        if not (self.folder / "checkpoint.json").exists():
            return []
        known, history = load_checkpoint(self.folder, nn.Module(), [], self.run)
        for label in range(known):
            found = load_labelled(self._file(label), self._label(label), str(noise.device))
            if found is None:
                raise SettingError(f"{self._file(label)} is missing, or of another run: choose another folder.")
            noise[label] = found["noise"]
        return history

    def write(self, noise: Float[Tensor, "3 row column"], history: list[dict[str, float]]) -> None:
        """Add what was found of one more class."""
        label = len(history) - 1
        save_labelled(self._file(label), {"noise": noise.contiguous()}, self._label(label))
        save_checkpoint(self.folder, nn.Module(), [], label + 1, history, self.run)

    def _file(self, label: int) -> Path:
        return self.folder / f"class-{label}.safetensors"

    def _label(self, label: int) -> str:
        return f"{self.run['base']} {self.run['pictures']} {label}"
