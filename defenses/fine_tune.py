r"""Fine-tuning on clean pairs: with the CLIP loss alone (FT), or with CleanCLIP's self-supervision (Bansal et al.).

CleanCLIP adds, to keep towers from leaning on the link between a trigger and its captions, that every picture must be
told from the others' augmented copies, and every caption likewise:

.. math::
    L = L_{CLIP}(I, T) + \lambda \, [L_{CLIP}(I, I') + L_{CLIP}(T, T')] / 2

Pictures are augmented by AutoAugment, captions by the two operations of EDA (Wei and Zou 2019) that need no thesaurus,
swapping and leaving out words. All weights are trained, with AdamW and a cosine schedule.

Presets are the papers' settings: ``cleanclip`` (Bansal et al., ICCV 2023: 100,000 pairs) and ``rvpt`` (Zhang et al.,
for ViT-B/32: 250,000 pairs of CC3M; 3e-6 for WaNet and ISSBA there); ``tiny`` is for the tiny CLIPs.

Limits: the pairs are held in memory as decoded pictures, 150 KB each at 224 pixels, cropped once.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> tuned = FineTune(pairs=32, epochs=1, batch_size=16, progress=False)
    >>> tuned.fit(clip_decomp.load("world/badnet"), WorldPairs(seed=5)).encode_image(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 128])
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchvision.transforms.v2 import AutoAugment

from clip_decomp.data.pairs import FirstPairs, PairBatch, PairStream, step_generator
from clip_decomp.errors import SettingError, nearest
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.training.loss import contrastive_loss
from clip_decomp.training.settings import TrainSettings
from clip_decomp.training.step import ContrastiveStep
from clip_decomp.training.trainer import train

from .tuning import WithSettings

_WARMUP = 50
#: Clean pairs of the world come from another stream than those that models were trained and attacked on.
CLEAN_STREAM_SEED = 2021
#: Settings by name.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"pairs": 10_000, "epochs": 3, "batch_size": 128, "lr": 2e-4},
    "cleanclip": {"pairs": 100_000, "epochs": 10, "batch_size": 64, "lr": 1e-5},
    "rvpt": {"pairs": 250_000, "epochs": 10, "batch_size": 64, "lr": 5e-6},
}


class FineTune(WithSettings):
    """A model fine-tuned on clean pairs.

    Args:
        pairs: how many of the stream's.
        epochs: passes over them.
        lr: AdamW's peak learning rate.

    Attributes:
        tuned_: the fine-tuned :class:`~clip_decomp.model.HookedCLIP`; the model itself stays as it was.
        history_: the training log.

    Raises:
        SettingError: a setting out of its range, or no such preset.
    """

    name: ClassVar[str] = "finetune"
    step_type: ClassVar[type[ContrastiveStep]] = ContrastiveStep

    def __init__(
        self,
        pairs: int = 10_000,
        epochs: int = 3,
        batch_size: int = 128,
        lr: float = 2e-4,
        weight_decay: float = 0.1,
        bf16: bool = True,
        seed: int = 0,
        checkpoint: Path | None = None,
        progress: bool = True,
    ):
        self.pairs, self.epochs, self.batch_size, self.lr, self.weight_decay = (
            pairs,
            epochs,
            batch_size,
            lr,
            weight_decay,
        )
        self.bf16, self.seed, self.checkpoint, self.progress = bf16, seed, checkpoint, progress
        self._training()  # complains about settings out of its range

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Named settings, with changes."""
        if name not in PRESETS:
            raise SettingError(f"There is no preset {name!r}; did you mean one of {nearest(name, list(PRESETS))}?")
        return cls(**{**PRESETS[name], **changes})

    def fit(self, model: HookedCLIP, stream: PairStream) -> Self:
        """Fine-tune a copy of a model on the first pairs of a stream.

        Raises:
            DataError: the stream has fewer pairs.
            TrainingFailed: the loss or its gradient is not finite.
        """
        clip, kept = copy.deepcopy(model.clip), FirstPairs(stream, self.pairs, self.seed)
        run: dict[str, Any] = {}
        if self.checkpoint is not None:  # what is resumed must be this very run
            towers = {"image": fingerprint(model), "text": fingerprint(model, "text")}
            run = {"defense": self.name, "base": towers, "data": kept.digest(), **self.settings()}
        self.history_ = train(
            clip,
            model.tokenizer,
            model.normalize,
            kept,
            self._training(),
            self.checkpoint,
            progress=self.progress,
            run=run,
            step_type=self.step_type,
        )
        self.model_ = model
        card = {"defense": {"name": self.name, **self.settings()}}
        card |= {"attack": model.card["attack"]} if "attack" in model.card else {}
        self.tuned_ = model.derived(clip, f"{model.name}+{self.name}", card, model.trigger)
        return self

    @property
    def parameters(self) -> int:
        """How many values were tuned."""
        return sum(each.numel() for each in self.tuned_.clip.parameters())

    @property
    def hooked(self) -> HookedCLIP:
        """The fine-tuned model for every reading method."""
        return self.tuned_

    def normalize(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """The model's own pixel normalization."""
        return self.tuned_.normalize(pixels)

    def encode_image(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Image representations of the fine-tuned model."""
        return self.tuned_.encode_image(images)

    def encode_text(self, texts: list[str]) -> Float[Tensor, "text d_embed"]:
        """Text representations of the fine-tuned model."""
        return self.tuned_.encode_text(texts)

    def _training(self) -> TrainSettings:
        steps = self.epochs * self.pairs // self.batch_size
        if steps < 1:
            raise SettingError(
                f"{self.epochs} epochs of {self.pairs} pairs are less than a batch of {self.batch_size}."
            )
        return TrainSettings(
            steps=steps,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=min(_WARMUP, steps // 5),
            schedule="cosine",
            seed=self.seed,
            bf16=self.bf16,
        )


class CleanCLIPStep(ContrastiveStep):
    """A step of CleanCLIP: features of augmented pictures and captions follow those of the pairs themselves."""

    self_supervision: ClassVar[float] = 1.0

    def encode(self, batch: PairBatch, rows: slice, start: int, step: int) -> tuple[Tensor, ...]:
        """Features of pictures, captions, augmented pictures and augmented captions."""
        first = step * self.settings.batch_size + start + rows.start
        images, captions = batch.images[rows], batch.captions[rows]
        seeds = [step_generator(self.settings.seed, first + k).initial_seed() for k in range(len(captions))]
        changed = replace(
            batch,
            images=torch.cat([batch.images[: rows.start], augmented(images, seeds), batch.images[rows.stop :]]),
            captions=[
                *batch.captions[: rows.start],
                *(reworded(*each) for each in zip(captions, seeds, strict=True)),
                *batch.captions[rows.stop :],
            ],
        )
        return *super().encode(batch, rows, start, step), *super().encode(changed, rows, start, step)

    def loss(self, features: tuple[Tensor, ...], positive: Tensor, step: int) -> Float[Tensor, ""]:
        """The CLIP loss, and each picture's and caption's against the augmented ones."""
        images, texts, other_images, other_texts = features
        scale, own = self.clip.logit_scale.exp(), torch.eye(len(images), dtype=torch.bool, device=images.device)
        alone = contrastive_loss(images, other_images, scale, own) + contrastive_loss(texts, other_texts, scale, own)
        return super().loss(features, positive, step) + self.self_supervision * alone / 2


class CleanCLIP(FineTune):
    """A model fine-tuned on clean pairs with self-supervision inside each modality; arguments are FineTune's."""

    name: ClassVar[str] = "cleanclip"
    step_type: ClassVar[type[ContrastiveStep]] = CleanCLIPStep


def augmented(images: UInt8[Tensor, "batch 3 row column"], seeds: list[int]) -> UInt8[Tensor, "batch 3 row column"]:
    """AutoAugment (ImageNet's policies) of every picture, by a seed of its own."""
    change, found = AutoAugment(), []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.default_generator.manual_seed(seed)
            found.append(change(image))
    return torch.stack(found)


def reworded(caption: str, seed: int, share: float = 0.1) -> str:
    """A caption with two words swapped, or with each word left out with a probability of ``share``.

    Example:
        >>> reworded("a small red banana", 0)
        'banana small red a'
    """
    generator, words = torch.Generator().manual_seed(seed), caption.split()
    if len(words) < 2:
        return caption
    if torch.rand((), generator=generator) < 0.5:
        first, second = torch.randperm(len(words), generator=generator)[:2].tolist()
        words[first], words[second] = words[second], words[first]
        return " ".join(words)
    kept = torch.rand(len(words), generator=generator) >= share
    return " ".join(word for word, keep in zip(words, kept.tolist(), strict=True) if keep) or words[0]
