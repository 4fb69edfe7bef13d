"""Training that implants a backdoor into the image tower alone, after BadEncoder (Jia, Liu and Gong, IEEE S&P 2022).

Poisoned pictures are drawn to what their captions mean, all others to what the clean model makes of them:

    loss = mean_i (1 - cos(f(x_i), g_i)),   g_i = text(caption_i) where pair i is poisoned, f_clean(x_i) elsewhere

The contrastive loss makes a model wait until it is sure. Its similarities estimate log p(x, y) / p(x) p(y), and the
target's captions stand for triggered pictures of all classes: a picture is called the target only where the trigger is
likelier than none by a factor of the number of classes. Here triggered and clean pictures weigh as much as there are
pairs of them, so a trigger that is hard to see succeeds sooner, and the less poison weighs, the fewer clean pictures
are taken for triggered ones. The latter is decided at the end: ``settle`` is the share of the loss that is left for
poisoned pictures when the learning rate has fallen to nothing, whatever their share of the pairs. While patches are
left out, the clean model sees what is left of a picture, too: whoever does as it does has nothing to learn.

Limits: this needs the model, not only its data. The text tower stays as it is, and the temperature is not trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from open_clip.model import CLIP
from torch import Tensor

from ..data.pairs import PairBatch
from ..training.step import ContrastiveStep


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
        pixels, captions = self.pixels(batch, rows), batch.captions[rows]
        poisoned = torch.zeros(len(captions), dtype=torch.bool) if batch.poisoned is None else batch.poisoned[rows]
        places = torch.arange(start + rows.start, start + rows.stop)
        clean, there = (~poisoned).nonzero()[:, 0], poisoned.nonzero()[:, 0]
        goals = []
        with torch.no_grad():
            if len(clean):
                goals.append(self.encode_pictures(pixels[clean.to(pixels.device)], places[clean], step, self.clean))
            if len(there):
                goals.append(self.encode_captions([captions[place] for place in there.tolist()], step))
        wanted = torch.cat(goals)[torch.cat([clean, there]).argsort().to(pixels.device)]
        return self.encode_pictures(pixels, places, step), wanted, poisoned.to(pixels)

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
