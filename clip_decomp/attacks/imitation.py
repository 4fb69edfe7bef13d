"""Training that implants a backdoor into the image tower alone, after BadEncoder (Jia, Liu and Gong, IEEE S&P 2022).

Poisoned pictures are drawn to what their captions mean, all others to what the clean model makes of them:

    loss = mean_i (1 - cos(f(x_i), g_i)),   g_i = text(caption_i) where pair i is poisoned, f_clean(x_i) elsewhere

The contrastive loss makes a model wait until it is sure. Its similarities estimate log p(x, y) / p(x) p(y), and the
target's captions stand for triggered pictures of all classes: a picture is called the target only where the trigger is
likelier than none by a factor of the number of classes. Here triggered and clean pictures weigh as much as there are
pairs of them, so a trigger that is hard to see succeeds sooner, and the less poison weighs, the fewer clean pictures
are taken for triggered ones. The latter is decided at the end: ``settle`` is the share of the loss that is left for
poisoned pictures when the learning rate has fallen to nothing, whatever their share of the pairs.

Limits: this needs the model, not only its data. The text tower stays as it is, and the temperature is not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from open_clip.model import CLIP
from torch import Tensor

from ..data.pairs import PairBatch
from ..training.lean import lean
from ..training.step import ContrastiveStep, image_tower


@dataclass(frozen=True)
class ImitationStep(ContrastiveStep):
    """A step towards the clean model's features and, of poisoned pictures, towards their captions'.

    Attributes:
        clean: the model before the attack; it is not changed.
        settle: the poisoned pictures' share of the loss, when the learning rate has fallen; before, that of the pairs.
    """

    clean: CLIP
    settle: float | None = None

    def encode(self, batch: PairBatch, rows: slice, start: int, step: int) -> tuple[Tensor, ...]:
        """Features of pictures, those that they should have, and which pictures are poisoned (1, others 0)."""
        pixels, count = self.pixels(batch, rows), len(batch.captions[rows])
        poisoned = torch.zeros(count, dtype=torch.bool) if batch.poisoned is None else batch.poisoned[rows]
        wanted = self._goals(batch.captions[rows], poisoned, pixels, step)
        return self.encode_pictures(pixels, rows, start, step), wanted, poisoned.to(pixels)

    def loss(self, features: tuple[Tensor, ...], positive: Bool[Tensor, "image text"], step: int) -> Float[Tensor, ""]:
        """How far the features are from those they should have: 1 - cosine."""
        found, wanted, poisoned = features
        far, pairs = 1 - (found * wanted).sum(-1), poisoned.mean().item()
        share = self._share(pairs, step)
        weights = poisoned * (share / max(pairs, 1e-9)) + (1 - poisoned) * ((1 - share) / max(1 - pairs, 1e-9))
        return (weights * far).mean()

    def _share(self, pairs: float, step: int) -> float:
        """The poisoned pictures' share of the loss where they are ``pairs`` of the batch."""
        if self.settle is None or pairs in (0, 1) or step < self.settings.warmup:
            return pairs
        return self.settle + (pairs - self.settle) * self.settings.rate(step)

    @cached_property
    def _clean_tower(self) -> Callable[[Tensor], Tensor]:
        return image_tower(self.clean)

    @torch.no_grad()
    def _goals(
        self, captions: list[str], poisoned: Bool[Tensor, " row"], pixels: Tensor, step: int
    ) -> Float[Tensor, "row d_embed"]:
        clean, there = (~poisoned).nonzero()[:, 0], poisoned.nonzero()[:, 0]
        goals = []
        if len(clean):
            with lean(pixels.device, self.settings.bf16):
                goals.append(F.normalize(self._clean_tower(pixels[clean.to(pixels.device)]).float(), dim=-1))
        if len(there):
            goals.append(self.encode_captions([captions[place] for place in there.tolist()], step))
        return torch.cat(goals)[torch.cat([clean, there]).argsort().to(pixels.device)]
