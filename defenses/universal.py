r"""Universal noise: one change, the same for all pictures, that takes them to a class of a model.

It descends the pictures' cross-entropy towards the class by zero-shot logits, while the norm that it may have grows
from step to step until it takes most pictures. Where a model has a backdoor, the cheapest such change goes the
backdoor's way: in the embedded world and on photographs the mean of what it makes of pictures has a cosine of 0.8 to 1
with the mean of what the trigger makes of them, more where the norm is somewhat larger than needed
(docs/measurements.md). Audits tell backdoors by its norm (:mod:`defenses.audit`), and defenses that are told a
suspicious class learn from what it does.

Limits: noise is additive and in pixel units; pixels are kept within 0..1. The image tower is only called, so every kind
will do.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.zeroshot import class_vectors
    >>> model, names = clip_decomp.load("world/badnet"), ("banana", "key", "spider")
    >>> pixels = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> found = Universal(batch_size=8).noises(model, pixels, class_vectors(model, names), 0, beyond=(1.5,))
    >>> [bool(each.norm <= 0.06) for each in found], found[1].pixels.shape
    ([True, True], torch.Size([3, 64, 64]))
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from clip_decomp.data.pairs import step_generator
from clip_decomp.errors import SettingError, class_place
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.training.checkpoint import load_labelled, save_labelled
from clip_decomp.training.lean import lean
from clip_decomp.training.parallel import launched
from clip_decomp.zeroshot import class_vectors

from .few_shot import FewShots
from .tuning import frozen

logger = logging.getLogger(__name__)

#: Steps at each norm beyond the first that suffices.
BEYOND_STEPS = 8
#: What defenses learn from: noise of so many random orders of the pictures, each at these multiples of its norm.
ORDERS, BEYOND = 3, (1.5, 2.0)
#: Largest norm at which noise is still looked for where somebody suspects the class.
HIGHEST = 0.12


@dataclass(frozen=True)
class Noise:
    """One change for all pictures.

    Attributes:
        pixels: to add, in pixel units (0..1).
        norm: the largest root mean square that it could have.
        reached: whether it took most pictures to the class.
    """

    pixels: Float[Tensor, "3 row column"]
    norm: float
    reached: bool


@dataclass(frozen=True)
class Universal:
    """Settings of the descent.

    Attributes:
        lowest, highest: root mean square of the noise at the first step, and where a class is given up.
        growth: of it, from step to step.
        goal: share of a batch's pictures (mean of three) at which a class counts as reached.
        lr: step length, as a share of the norm.
        scale: inverse temperature of the logits that are descended; a model's own saturates.

    Raises:
        SettingError: a setting out of its range.
    """

    lowest: float = 0.0036
    highest: float = 0.06
    growth: float = 1.1
    goal: float = 0.9
    batch_size: int = 24
    lr: float = 0.3
    momentum: float = 0.7
    scale: float = 20.0
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest or not self.growth > 1 or not 0 < self.goal <= 1:
            raise SettingError(
                f"Universal noise needs 0 < lowest < highest, growth > 1 and a goal in 0..1, not {self.lowest}, "
                f"{self.highest}, {self.growth} and {self.goal}."
            )
        if self.batch_size < 1 or not self.lr > 0 or not 0 <= self.momentum < 1 or not self.scale > 0:
            raise SettingError(
                "Universal noise needs batch_size >= 1, lr and scale > 0 and momentum from 0 to less than 1."
            )

    def noises(
        self,
        model: HookedCLIP,
        pixels: Float[Tensor, "image 3 row column"],
        vectors: Float[Tensor, "cls d_embed"],
        label: int,
        beyond: Sequence[float] = (),
        progress: str | None = None,
    ) -> list[Noise]:
        """The noise as it first takes pictures to class ``label``, or as it is given up, and then at larger norms.

        Args:
            pixels: pictures in 0..1 that are not of that class.
            vectors: unit text vectors of the classes.
            beyond: multiples of the first norm, at each of which the noise descends some more.
            progress: the name of a bar of steps that is shown; none by default.
        """
        bar = tqdm(desc=progress, unit="step", disable=progress is None)
        walk, size = _Descent(self, model, pixels, vectors, label, bar), self.lowest
        shares, reached = [], False
        while not reached and size < self.highest:
            shares.append(walk.look())
            reached = len(shares) >= 3 and sum(shares[-3:]) / 3 >= self.goal
            if not reached:
                size = min(size * self.growth, self.highest)
                walk.move(size)
        found = [Noise(walk.noise, size if reached else self.highest, reached)]
        for factor in beyond:
            for _ in range(BEYOND_STEPS):
                walk.look()
                walk.move(found[0].norm * factor)
            found.append(Noise(walk.noise, found[0].norm * factor, reached))
        bar.close()
        return found

    def cosines(
        self, model: HookedCLIP, pixels: Float[Tensor, "batch 3 row column"], vectors: Float[Tensor, "cls d_embed"]
    ) -> Float[Tensor, "batch cls"]:
        """Of pictures, cut to 0..1, with classes."""
        with lean(model.device, self.bf16):
            features = model.encode_image(model.normalize(pixels.clamp(0, 1)), normalize=True)
        return features.float() @ vectors.T


class _Descent:
    """A noise on its way: looks at a batch of pictures, then moves."""

    def __init__(
        self, settings: Universal, model: HookedCLIP, pixels: Tensor, vectors: Tensor, label: int, bar: tqdm[Any]
    ):
        self.settings, self.model, self.pixels, self.vectors, self.label = settings, model, pixels, vectors, label
        self.bar = bar
        self.noise, self.velocity, self.step = torch.zeros_like(pixels[0]), torch.zeros_like(pixels[0]), 0

    def look(self) -> float:
        """Share of the next batch's pictures that the noise takes to the class; the way down is kept."""
        chosen = torch.randperm(len(self.pixels), generator=step_generator(self.settings.seed, self.step))
        rows, noise = chosen[: self.settings.batch_size], self.noise.detach().requires_grad_(True)
        with torch.enable_grad():
            cosines = self.settings.cosines(self.model, self.pixels[rows] + noise, self.vectors)
            wanted = torch.full((len(rows),), self.label, device=cosines.device)
            (self.gradient,) = torch.autograd.grad(F.cross_entropy(self.settings.scale * cosines, wanted), noise)
        self.noise, self.step = noise.detach(), self.step + 1
        self.bar.update()
        return (cosines.argmax(1) == self.label).float().mean().item()

    def move(self, size: float) -> None:
        """Go down, and keep within a root mean square of ``size``."""
        direction = self.gradient / self.gradient.norm().clamp(min=1e-12)
        self.velocity = self.settings.momentum * self.velocity + direction
        norm = size * self.noise.numel() ** 0.5
        moved = self.noise - self.settings.lr * norm * self.velocity
        self.noise = moved * (norm / moved.norm().clamp(min=norm))


def towards(
    model: HookedCLIP,
    chosen: FewShots,
    suspect: str,
    seed: int = 0,
    bf16: bool = True,
    folder: Path | None = None,
    largest: float | None = None,
    progress: bool = False,
) -> Float[Tensor, "noise 3 row column"]:
    """Universal noises that take chosen pictures of other classes to the suspect, for a defense to learn from.

    Args:
        folder: where they are kept for a run that goes on.
        largest: norm that noise may have against a model that is defended already, whether that suffices or not; it
            descends some more at its norm then, instead of beyond it.

    Raises:
        DataError: no class of that name.
    """
    names = chosen.class_names
    label = class_place(suspect, names, "The suspect: ")
    settings, beyond = Universal(highest=HIGHEST, seed=seed, bf16=bf16), BEYOND
    if largest is not None:
        settings, beyond = replace(settings, lowest=largest / 2, highest=largest), (1.0,)
    file, run = None if folder is None else folder / "universal.safetensors", ""
    if file is not None:  # nobody hashes a model for nothing
        what = {**asdict(settings), "beyond": beyond, "suspect": suspect, "base": fingerprint(model)}
        run = json.dumps({**what, **chosen.identity(model)})
        known = load_labelled(file, run, str(model.device))
        if known is not None:
            return known["noises"]
    shown = "universal noise" if progress and launched(model.device).main else None
    pixels = model.denormalize(chosen.images[chosen.labels != label].to(model.device)).clamp(0, 1)
    vectors = class_vectors(model, names, chosen.templates)
    with frozen(model.clip):
        found = [
            each
            for order in range(ORDERS)
            for each in replace(settings, seed=seed + order).noises(model, pixels, vectors, label, beyond, shown)
        ]
    if largest is None and not any(each.reached for each in found):
        logger.warning(
            "No noise of a root mean square up to %s takes most pictures to %r: is it the right suspect?",
            settings.highest, suspect,
        )  # fmt: skip
    noises = torch.stack([each.pixels for each in found])
    if file is not None and launched(model.device).main:
        save_labelled(file, {"noises": noises}, run)
    return noises


def under(
    model: HookedCLIP,
    images: Float[Tensor, "batch 3 row column"],
    noises: Float[Tensor, "noise 3 row column"],
    numbers: Int[Tensor, " batch"],
) -> Float[Tensor, "batch 3 row column"]:
    """Normalized pictures under noises, which take turns by the pictures' numbers."""
    added = noises.to(images.device)[numbers.to(images.device) % len(noises)]
    return model.normalize((model.denormalize(images) + added).clamp(0, 1))


def beside(model: HookedCLIP, chosen: FewShots, noises: Sequence[Float[Tensor, "noise 3 row column"]]) -> FewShots:
    """Chosen pictures, and after them the same ones under each set of noises; labels stay as they are."""
    numbers, copies = torch.arange(len(chosen.images)), 1 + len(noises)
    images = torch.cat([chosen.images, *(under(model, chosen.images, each, numbers) for each in noises)])
    return replace(chosen, images=images, labels=chosen.labels.repeat(copies), places=chosen.places.repeat(copies))
