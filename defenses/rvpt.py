r"""RVPT: visual prompts that repel what a backdoored tower would have encoded (Zhang et al. 2025).

Deep visual prompts are tuned on a few labelled clean pictures; every weight of the model stays as it is. For picture i
with class tokens :math:`c_i^d` of the prompted and :math:`o_i^d` of the original tower behind block d,

.. math::
    L = \sum_i \Big[ -\log \frac{\exp(\cos(v_i, t_{y_i}) / \tau)}{\sum_c \exp(\cos(v_i, t_c) / \tau)}
        + \alpha \max\Big(\frac{1}{L - D} \sum_{d=D+1}^{L} \cos(c_i^d, o_i^d),\, m\Big) \Big]

(equations 3 to 6; equation 4 lacks its exponentials). Both terms are *sums* over the batch: a mean would need a
learning rate larger by the batch size. ``alpha=0`` is plain visual prompt tuning (VPT); the margin m is -1 (full
repulsion) by default.

Everything before the first prompted block, and the original class tokens, are computed once an image and kept; prompts
enter as keys and values, which are the same for all images. A step costs the prompted blocks, without queries and MLPs
for prompts, forward and backward.

Limits: the tower must be a vision transformer. Momentum and the scale of the prompts' start are not in the paper; ours
are CoOp's.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> data = open_data("world", 64, test=8, train=300)
    >>> rvpt = RVPT(length=2, shots=1, epochs=1, progress=False)
    >>> fixed = rvpt.fit(clip_decomp.load("world/badnet"), data.train)
    >>> fixed.encode_image(torch.zeros(1, 3, 64, 64)).shape, fixed.prompts_.count
    (torch.Size([1, 128]), 2304)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.data.sets import PLAIN_TEMPLATE, ImageSet
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.prompts import DeepVisualPrompts
from clip_decomp.prompts.stored import read_card
from clip_decomp.training.lean import lean
from clip_decomp.training.parallel import launched
from clip_decomp.zeroshot import class_vectors

from .defended import ImageSideDefense
from .few_shot import FewShots, check_shots
from .prefix import Prefix, class_tokens
from .tuning import TunedTokens, frozen, round_folders
from .universal import ORDERS, beside, towards

#: What was found for a class that an audit suspects, not in the paper (docs/measurements.md).
_AIMED: dict[str, Any] = {"alpha": -30.0, "epochs": 6, "lr": 0.001}

#: Changes normalized pictures of a batch, given a generator, each time they are seen.
Augment = Callable[[Float[Tensor, "batch 3 row column"], torch.Generator], Float[Tensor, "batch 3 row column"]]


@dataclass(frozen=True)
class Losses:
    """Sums over a batch.

    Attributes:
        repelling: mean cosine of prompted and original class tokens over layers, not below the margin.
    """

    cross_entropy: Float[Tensor, ""]
    repelling: Float[Tensor, ""]

    def total(self, alpha: float) -> Float[Tensor, ""]:
        """What is descended."""
        return self.cross_entropy + alpha * self.repelling


class RVPT(TunedTokens, ImageSideDefense):
    """A model with visual prompts tuned to keep what tells the classes apart and to repel the rest.

    Args:
        alpha: weight of the feature-repelling loss; 0 is VPT. Below 0, with ``aim`` only, class tokens are drawn to the
            original tower's of the same picture without noise instead.
        length: prompts a block.
        depth: number of prompted blocks; by default all but the first quarter, which are 9 of 12.
        count_from: whether they are the last blocks (``output``) or the first (``input``).
        margin: below this mean cosine a picture is repelled no further; 1 repels nothing.
        shots: pictures of each class, None for all.
        lr: of SGD, for losses summed over the batch, with cosine decay to zero.
        aim: the class that an audit found suspicious (:mod:`defenses.audit`): every picture is tuned on a second time,
            under universal noise that takes pictures there (:mod:`defenses.universal`), the original tower's class
            tokens being the clean picture's. Not in the paper.
        rounds: with ``aim``, how often prompts are tuned anew: from the second time on each picture is also tuned on
            under noise that was made against the prompts of the time before and is no larger than the first.
        bf16: compute in bfloat16 where autocast allows it.
        cache: a file for the frozen streams; None keeps them in memory.
        checkpoint: a folder that is written after every epoch; a run that is found there goes on.

    Attributes:
        prompts_: the tuned :class:`~clip_decomp.prompts.deep.DeepVisualPrompts`.
        history_: for every epoch (of the last round) the means over its pictures of the two losses, and the ``seconds``
            that tuning took so far, those of earlier rounds and before an interruption included.
        chosen_: places of the pictures that it was tuned on.

    Raises:
        SettingError: a setting out of its range.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        length: int = 50,
        depth: int | None = None,
        count_from: Literal["output", "input"] = "output",
        margin: float = -1.0,
        shots: int | None = 16,
        epochs: int = 50,
        batch_size: int = 32,
        lr: float = 0.002,
        momentum: float = 0.9,
        aim: str | None = None,
        rounds: int = 1,
        bf16: bool = True,
        seed: int = 0,
        cache: Path | None = None,
        checkpoint: Path | None = None,
        progress: bool = True,
    ):
        if (alpha < 0 and aim is None) or not -1 <= margin <= 1:
            raise SettingError(f"RVPT needs alpha >= 0 and a margin in -1..1, not {alpha} and {margin}.")
        if rounds < 1 or (rounds > 1 and aim is None):
            raise SettingError(f"RVPT is tuned in one round, or with an aim in one or more, not in {rounds}.")
        if length < 1:
            raise SettingError(f"RVPT needs one prompt a block or more, not {length}.")
        check_shots(shots)
        if count_from not in ("output", "input"):
            raise SettingError(f"Prompted blocks are counted from output or input, not {count_from!r}.")
        self.alpha, self.length, self.depth, self.count_from, self.margin = alpha, length, depth, count_from, margin
        self.shots, self.epochs, self.batch_size, self.lr, self.momentum = shots, epochs, batch_size, lr, momentum
        self.aim, self.rounds, self.bf16, self.seed = aim, rounds, bf16, seed
        self.cache, self.checkpoint, self.progress = cache, checkpoint, progress
        self.tuning()  # complains about settings out of its range

    @classmethod
    def aimed(cls, suspect: str, **changes: Any) -> Self:
        """RVPT for the class that an audit suspects, by the settings that were found for it, but for ``changes``.

        Example:
            >>> RVPT.aimed("banana", shots=8).settings()["aim"]
            'banana'
        """
        return cls(**{**_AIMED, "aim": suspect, **changes})

    def fit(
        self,
        model: HookedCLIP,
        images: ImageSet | Float[Tensor, "image 3 row column"],
        labels: Int[Tensor, " image"] | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
        without: Sequence[str] = (),
        augment: Augment | None = None,
    ) -> Self:
        """Tune prompts on labelled clean pictures. Returns itself.

        Args:
            images: a data set, or normalized pictures with their ``labels`` and ``class_names``.
            templates: of the classes' texts; a data set brings its own.
            without: classes that are left out, pictures and texts alike (the paper's woTC).
            augment: changes pictures each time they are seen; nothing is kept then but the prompts.

        Raises:
            SettingError: more blocks than the tower has, pictures without labels, an aim that is left out or beside
                ``augment``, or a ``checkpoint`` of another run.
            DataError: labels out of range, a class with fewer pictures than shots, or no class of the name to aim at.
            TrainingFailed: a loss that is not finite.
        """
        if self.aim is not None and augment is not None:
            raise SettingError("Where RVPT is aimed, noise is what changes pictures: leave augment out.")
        if self.aim is not None and self.aim in without:
            raise SettingError(f"RVPT learns from noise towards {self.aim!r}, so that class cannot be left out.")
        prompts = self.prepare(model)  # complains before anything is read
        chosen = FewShots.of(model, images, labels, class_names, self.shots, self.seed, templates, without)
        self.chosen_ = chosen.places
        vectors = class_vectors(model, chosen.class_names, chosen.templates).to(model.device)
        noises: list[Tensor] = []
        largest, spent = None, 0.0
        main = launched(model.device).main
        for number, folder in enumerate(round_folders(self.checkpoint, self.rounds, main)):
            seen, prompts = chosen, self.prepare(model) if number else prompts
            if self.aim is not None:
                against, seed = self.prompted_ if number else model, self.seed + number * ORDERS
                noises.append(towards(against, chosen, self.aim, seed, self.bf16, folder, largest, self.progress))
                largest = noises[0].square().mean((1, 2, 3)).max().sqrt().item()
                seen = beside(model, chosen, noises)
            self._tune(seen, vectors, augment, folder)
            self.history_ = [{**epoch, "seconds": epoch["seconds"] + spent} for epoch in self.history_]
            spent = self.history_[-1]["seconds"]
            prompts.requires_grad_(False).zero_grad()
            self.prompted_ = prompts.on(model, keys=True)
        return self

    def encode_image(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Representations of normalized images under the prompts."""
        return self.prompted_.encode_image(images)

    @property
    def hooked(self) -> HookedCLIP:
        """The prompted model for every reading method, prompts on the token axis."""
        return self.prompts_.on(self.model_)

    @property
    def parameters(self) -> int:
        """How many values were tuned."""
        return self.prompts_.count

    def save(self, folder: str | Path) -> None:
        """Write the prompts and how they were made."""
        self.prompts_.save(folder, defense="vpt" if self.alpha == 0 else "rvpt", settings=self.settings())

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """A defense that was saved for this model; raises what :meth:`DeepVisualPrompts.load` does."""
        prompts = DeepVisualPrompts.load(folder, model).requires_grad_(False)
        settings = read_card(folder).get("settings", {})
        loaded = cls(**settings)
        loaded.model_, loaded.prompts_, loaded.prompted_ = model, prompts, prompts.on(model, keys=True)
        return loaded

    def prepare(self, model: HookedCLIP) -> DeepVisualPrompts:
        """Prompts as they are before tuning.

        Raises:
            SettingError: more blocks than the tower has, or a tower without blocks.
        """
        self.model_, self.prompts_ = model, DeepVisualPrompts(model, self.length, self._blocks(model), self.seed)
        return self.prompts_

    def _blocks(self, model: HookedCLIP) -> range:
        if not isinstance(model.visual, HookedViT):
            raise SettingError(f"RVPT prompts vision transformers; {model.name} has a {type(model.visual).__name__}.")
        layers = model.visual.n_layers
        depth = layers - layers // 4 if self.depth is None else self.depth
        if not 1 <= depth <= layers:
            raise SettingError(f"Between 1 and all {layers} blocks of this tower can be prompted, not {depth}.")
        return range(layers - depth, layers) if self.count_from == "output" else range(depth)

    def losses(
        self,
        stream: Float[Tensor, "batch token d_model"],
        targets: Float[Tensor, "batch layer d_model"],
        labels: Int[Tensor, " batch"],
        vectors: Float[Tensor, "cls d_embed"],
    ) -> Losses:
        """Both losses of a batch whose streams enter the first prompted block; ``targets`` from the original tower."""
        tower = self.model_.visual
        with tower.hooks(fwd_hooks=self.prompts_.hooks(tower, keys=True)):
            features, tokens = class_tokens(tower, stream, self.prompts_.blocks[0])
        logits = self.model_.logit_scale.detach() * F.normalize(features.float(), dim=-1) @ vectors.T
        cosines = F.cosine_similarity(tokens.float(), targets.float(), dim=-1).mean(1)
        return Losses(F.cross_entropy(logits, labels, reduction="sum"), cosines.clamp(min=self.margin).sum())

    def _tune(self, chosen: FewShots, vectors: Tensor, augment: Augment | None, folder: Path | None) -> None:
        tower, device, pixels, labels = self.model_.visual, self.model_.device, chosen.images, chosen.labels
        first = self.prompts_.blocks[0]
        with frozen(tower):
            kept = None if augment else Prefix.of(tower, pixels, first, self.cache, self.bf16, self.progress)
            if kept is not None and self.aim is not None:  # noisy pictures stand behind the clean ones
                clean = len(self.chosen_)
                kept = replace(kept, targets=kept.targets[:clean].repeat(len(kept) // clean, 1, 1))

            def losses(rows: Tensor, epoch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
                part, here = kept, rows
                if augment:
                    part, here = Prefix.of(tower, augment(pixels[rows], generator), first, None, self.bf16), slice(None)
                assert part is not None
                with lean(device, self.bf16):
                    streams, targets = part.residual[here].to(device), part.targets[here].to(device)
                    found = self.losses(streams, targets, labels[rows].to(device), vectors)
                return found.total(self.alpha), {"cross_entropy": found.cross_entropy, "cosine": found.repelling}

            def run() -> dict[str, Any]:  # what is resumed must be the same equation on the same pictures and texts
                return {**self.settings(), "base": self.prompts_.base, **chosen.identity(self.model_)}

            label = "rvpt" if self.alpha else "vpt"
            self.history_ = self.tuning().tune(self.prompts_, len(labels), losses, label, self.progress, folder, run)
