"""One step's loss and its exact gradients, however the batch is split.

The contrastive loss compares all pairs of a batch, so the mean over micro-batches or processes is another loss with
fewer negatives. The chain rule splits exactly at the features instead (GradCache, Gao et al., arXiv 2101.06983;
open_clip's ``--accum-freq``):

    f_i = encode(pair_i)                      without a graph, one micro-batch after the other
    g   = dL / df                             once, from the features of all pairs
    dL / dtheta = sum_i g_i df_i / dtheta     micro-batches are encoded again, now with a graph

Without micro-batches the first pass keeps its graph and there is no second one. With several processes each computes
the loss from everyone's features and sends the gradients of its own ones through the towers.

Limits: every process holds the logits of all pairs with all pairs. Random numbers beyond patch dropout are drawn anew
in each micro-batch, the same in both passes; batch norms, which look at the whole batch, are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout, VisionTransformer
from torch import Tensor, nn

from ..data.pairs import PairBatch, PairStream, matches, step_generator
from ..errors import SettingError
from ..models.hooked_vit import HookedViT
from ..models.hooking import drops, hook
from .lean import lean
from .loss import contrastive_loss
from .parallel import Processes
from .settings import TrainSettings


@dataclass(frozen=True)
class ContrastiveStep:
    """Draws a batch and leaves the gradients of its loss in the model's weights.

    Raises:
        SettingError: the batch cannot be split as asked.
    """

    clip: CLIP
    tokenize: Callable[[list[str]], Tensor]
    normalize: Callable[[Tensor], Tensor]
    stream: PairStream
    settings: TrainSettings
    processes: Processes

    def __post_init__(self) -> None:
        part, count = self.processes.part(self.settings.batch_size), self.settings.accumulate
        if count > part.stop - part.start:
            raise SettingError(f"{part.stop - part.start} pairs a process cannot be split into {count} micro-batches.")
        if self.settings.accumulate > 1 or self.processes.count > 1:
            self._refuse_batch_norms()

    def __call__(self, step: int) -> Float[Tensor, ""]:
        """The loss of the ``step``-th batch."""
        size, processes = self.settings.batch_size, self.processes
        own, alone = processes.part(size), processes.count == 1 or self.settings.negatives == "local"
        batch = self.stream.batch(step, size, own)
        # Asked from all processes rather than from the stream's description: unreadable pairs may have been replaced.
        facts = batch.truth.to(self._device), batch.said.to(self._device)
        positive = matches(*(facts if alone else processes.gather(*facts)))
        micro = _split(own.stop - own.start, self.settings.accumulate)

        def encode(rows: slice) -> tuple[Tensor, ...]:
            return self.encode(batch, rows, own.start, step)

        cached = len(micro) > 1
        with torch.set_grad_enabled(not cached):
            parts = [encode(rows) for rows in micro]
        features = tuple(torch.cat([each.detach() for each in tower]) for tower in zip(*parts, strict=True))
        leaves = tuple(each.requires_grad_() for each in (features if alone else processes.gather(*features)))
        loss = self.loss(leaves, positive, step)
        loss.backward()
        # Gradients are averaged over processes. The temperature's is the same in all of them; a feature's is in one.
        everyones = [cast(Tensor, leaf.grad) for leaf in leaves]
        gradients = everyones if alone else [each[own] * processes.count for each in everyones]
        for rows, part in zip(micro, parts, strict=True):
            for feature, gradient in zip(encode(rows) if cached else part, gradients, strict=True):
                if feature.requires_grad:  # not in a frozen tower
                    feature.backward(gradient[rows])
        processes.average_gradients(self.clip)
        return processes.mean(loss.detach())

    def loss(self, features: tuple[Tensor, ...], positive: Bool[Tensor, "image text"], step: int) -> Float[Tensor, ""]:
        """The loss of what :meth:`encode` made of all pairs of the ``step``-th batch."""
        return contrastive_loss(features[0], features[1], self.clip.logit_scale.exp(), positive)

    def encode(self, batch: PairBatch, rows: slice, start: int, step: int) -> tuple[Tensor, ...]:
        """Features of unit norm of some pairs of a batch whose first one is pair ``start`` of the step: of pictures,
        then of captions; a subclass may add others.
        """
        images = self.encode_pictures(self.pixels(batch, rows), slice(start + rows.start, start + rows.stop), step)
        return images, self.encode_captions(batch.captions[rows], step)

    def pixels(self, batch: PairBatch, rows: slice) -> Float[Tensor, "row 3 pixel_row pixel_column"]:
        """Some pictures of a batch as the model takes them."""
        return self.normalize(batch.images[rows].to(self._device, non_blocking=True).float() / 255)

    def encode_captions(self, captions: list[str], step: int) -> Float[Tensor, "row d_embed"]:
        """Features of unit norm."""
        device = self._device
        with _seeded(self.settings.seed, step, device), lean(device, self.settings.bf16):
            texts = self.clip.encode_text(self.tokenize(captions).to(device))
        return F.normalize(texts.float(), dim=-1)

    def encode_pictures(
        self, pixels: Tensor, places: slice | Int[Tensor, " row"], step: int, teacher: CLIP | None = None
    ) -> Float[Tensor, "row d_embed"]:
        """Features of unit norm, some patches left out if the step's settings say so.

        Args:
            places: of these pictures in the whole batch, which say what patches they lose.
            teacher: another model to ask about the same patches.
        """
        device, clip = self._device, self.clip if teacher is None else teacher
        dropout = PartOfDropout(self.settings.dropped(step), places, self.settings.batch_size)
        with (
            _seeded(self.settings.seed, step, device),
            _patches_left_out(clip, dropout),
            lean(device, self.settings.bf16),
        ):
            images = self._towers(clip)(pixels)
        return F.normalize(images.float(), dim=-1)

    @cached_property
    def _towers(self) -> Callable[[CLIP], Callable[[Tensor], Tensor]]:
        return lru_cache(image_tower)

    @property
    def _device(self) -> torch.device:
        return self.clip.logit_scale.device

    def _refuse_batch_norms(self) -> None:
        for name, module in self.clip.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise SettingError(
                    f"{name} normalizes over the whole batch, so that a part of it gives another loss: train in one "
                    "process with accumulate=1, or freeze batch norms with open_clip.utils.freeze_batch_norm_2d."
                )


class PartOfDropout(PatchDropout):
    """open_clip's patch dropout for some rows of a batch: they lose the patches that they lose in the whole batch."""

    def __init__(self, share: float, rows: slice | Int[Tensor, " row"], size: int):
        super().__init__(share)
        self.rows, self.size = rows, size

    def forward(self, x: Float[Tensor, "row token d_model"]) -> Float[Tensor, "row kept d_model"]:
        """The tokens that are kept."""
        places = torch.arange(x.shape[1])[None, :, None].expand(self.size, -1, 1)
        kept = super().forward(places)[self.rows, :, 0]
        return x[torch.arange(len(x))[:, None], kept]


def image_tower(clip: CLIP) -> Callable[[Float[Tensor, "batch 3 row column"]], Float[Tensor, "batch d_embed"]]:
    """The hooked view, whose steps on a CPU are 1.2 times as fast, of the towers that have one.

    Those that drop activations or paths at random while they train do so in their own code only.
    """
    tower = hook(clip.visual)
    return tower if isinstance(tower, HookedViT) and not drops(clip.visual) else clip.encode_image


def _split(size: int, count: int) -> list[slice]:
    bounds = [size * k // count for k in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


@contextmanager
def _seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Random numbers of this step alone, for patch dropout, which draws from the global generator."""
    cuda, number = device.type == "cuda", step_generator(seed, step).initial_seed()
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(number)  # torch.manual_seed looks for every other kind of device as well
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        yield


@contextmanager
def _patches_left_out(model: CLIP, dropout: PartOfDropout) -> Iterator[None]:
    """For one pass, the image tower sees a random part of its patches (none left out: the tower as it is)."""
    if dropout.prob == 0:
        yield
        return
    if not isinstance(model.visual, VisionTransformer):
        raise SettingError(f"Patches cannot be left out of a tower of type {type(model.visual).__name__}.")
    own, model.visual.patch_dropout = model.visual.patch_dropout, dropout
    try:
        yield
    finally:
        model.visual.patch_dropout = own
