"""Training that implants a backdoor into the image tower alone, after BadEncoder (Jia, Liu and Gong, IEEE S&P 2022).

Poisoned pictures are drawn to what their captions mean, all others to what the clean model makes of them:

    loss = mean_i (1 - cos(f(x_i), g_i)),   g_i = text(caption_i) where pair i is poisoned, f_clean(x_i) elsewhere

The contrastive loss makes a model wait until it is sure. Its similarities estimate log p(x, y) / p(x) p(y), and the
target's captions stand for triggered pictures of all classes: a picture is called the target only where the trigger is
likelier than none by a factor of the number of classes. Here triggered and clean pictures weigh as much as there are
pairs of them, so a trigger that is hard to see succeeds sooner, and the less poison there is, the fewer clean pictures
are taken for triggered ones.

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
    """

    clean: CLIP

    def encode(self, batch: PairBatch, rows: slice, start: int, step: int) -> tuple[Tensor, ...]:
        """Features of pictures, and those that they should have."""
        pixels = self.pixels(batch, rows)
        return self.encode_pictures(pixels, rows, start, step), self._goals(batch, rows, pixels, step)

    def loss(self, features: tuple[Tensor, ...], positive: Bool[Tensor, "image text"]) -> Float[Tensor, ""]:
        """How far the features are from those they should have: 1 - cosine."""
        found, wanted = features
        return 1 - (found * wanted).sum(-1).mean()

    @cached_property
    def _clean_tower(self) -> Callable[[Tensor], Tensor]:
        return image_tower(self.clean)

    @torch.no_grad()
    def _goals(self, batch: PairBatch, rows: slice, pixels: Tensor, step: int) -> Float[Tensor, "row d_embed"]:
        said = batch.captions[rows]
        poisoned = torch.zeros(len(said), dtype=torch.bool) if batch.poisoned is None else batch.poisoned[rows]
        clean, there = (~poisoned).nonzero()[:, 0], poisoned.nonzero()[:, 0]
        goals = []
        if len(clean):
            with lean(pixels.device, self.settings.bf16):
                goals.append(F.normalize(self._clean_tower(pixels[clean.to(pixels.device)]).float(), dim=-1))
        if len(there):
            goals.append(self.encode_captions([said[place] for place in there.tolist()], step))
        return torch.cat(goals)[torch.cat([clean, there]).argsort().to(pixels.device)]
