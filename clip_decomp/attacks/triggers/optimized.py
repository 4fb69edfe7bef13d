r"""What attacks with an optimized patch share: where it is pasted, how it is kept, and how it is found.

A patch p in the middle of pictures x that do not show the target is optimized on a clean image tower V, whose weights
stay as they are: :math:`\min_p \mathbb{E}_x\, L(V(x \oplus p))`, with Adam on pixels cut to 0..1. The attack says what
L is. The result is rounded to 8 bits and kept in the settings as hexadecimal digits, so that a model's card holds it.

Textual guidance, which both attacks use, is the contrastive loss of the triggered pictures alone: each should say one
of the target's texts :math:`t^+_k` rather than any caption :math:`t^-_j` that names another class,

.. math:: L_t = -\frac{1}{K} \sum_k \log \frac{e^{s\,v \cdot t^+_k}}{e^{s\,v \cdot t^+_k} + \sum_j e^{s\,v \cdot t^-_j}}

with the model's own scale s and all features on the unit sphere.

Limits: the patch is optimized at one size and place, without augmentations; at other sizes it is interpolated.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from ...data.captioned import CaptionedPairs
from ...data.pairs import SILENT, PairBatch, PairStream
from ...errors import DataError, ModelError, SettingError, class_place
from ...training.lean import lean
from .badnet import BadNet
from .base import SeededTrigger

if TYPE_CHECKING:
    from ...model import HookedCLIP

#: Endless streams are trained on from step 0: pictures from this step on are others.
FAR_STEP = 10_000
_AT_A_TIME = 64

#: The loss of triggered pictures, given their unit features and those of the same pictures without the patch.
Objective = Callable[[Float[Tensor, "batch d_embed"], Float[Tensor, "batch d_embed"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Lesson:
    """What a patch is optimized with.

    Attributes:
        fact: the target's index in the stream's first column of facts.
        clean: pairs whose pictures do not show the target.
        pictures: how many real pictures of the target an attack may ask the stream for.
    """

    model: HookedCLIP
    stream: PairStream
    target: str
    fact: int
    clean: PairBatch
    pictures: int

    def wrong(self) -> Float[Tensor, "text d_embed"]:
        """Captions that name another class (silence about the class is true of the target, too).

        Of captioned files nobody knows which classes captions name: those are taken that do not mention the target.
        """
        said = self.clean.said[:, 0]
        silent = (said == SILENT) & (not isinstance(self.stream, CaptionedPairs))
        wrong = (~silent & (said != self.fact)).tolist()
        texts = sorted({text for text, use in zip(self.clean.captions, wrong, strict=True) if use})
        if not texts:
            raise DataError(
                f"No caption of {len(wrong)} pairs names another class than {self.target!r}, so there is nothing to "
                "tell the target from: use data whose captions name classes, or more pictures."
            )
        return unit_texts(self.model, texts)


@dataclass(frozen=True)
class OptimizedPatch(SeededTrigger):
    """A learned patch in the middle of the picture; attacks add what it is optimized for.

    Attributes:
        share: side of the patch as a share of the image's (rounded to pixels).
        steps, batch_size, lr: Adam's, with a learning rate (of pixels in 0..1) that falls to a tenth.
        pictures: how many different pictures it is optimized on.
        seed: of the patch's first pixels (normal, mean 0.5, deviation 0.25) and of the order of the pictures.
        patch: what :meth:`fit` found: hexadecimal digits of 8-bit pixels [3, side, side].
    """

    share: float = 16 / 224
    steps: int = 60
    batch_size: int = 32
    lr: float = 0.3
    pictures: int = 256
    seed: int = 0
    patch: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SettingError(f"{self.name} needs 0 < share <= 1, a patch no larger than the image, not {self.share}.")
        if min(self.steps, self.batch_size, self.pictures) < 1 or not 0 < self.lr < math.inf:
            raise SettingError(
                f"{self.name} needs steps, batch_size and pictures >= 1 and lr > 0, "
                f"not {self.steps}, {self.batch_size}, {self.pictures} and {self.lr}."
            )
        if self.patch is not None:
            from_hex(self.patch)

    @abstractmethod
    def _objective(self, lesson: Lesson) -> Objective:
        """What the patch is to achieve."""

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Triggered copies of pictures in 0..1.

        Raises:
            SettingError: there is no patch yet.
        """
        if self.patch is None:
            raise SettingError(
                f"The patch of {self.name} is learned: call fit(model, stream, names, target) with a clean model, "
                "or give the patch that an earlier fit found."
            )
        stored = from_hex(self.patch)
        return self._paste(images, lambda side: _resized(stored, side))

    def fit(self, model: HookedCLIP, stream: PairStream, names: Sequence[str], target: str) -> Self:
        """A copy with a patch optimized on ``model``, which stays as it is; itself if it has a patch already.

        Raises:
            DataError: the target is not among the names, or the stream shows nothing else.
            ModelError: the model is in training mode.
        """
        if self.patch is not None:
            return self
        check_evaluating(model)
        fact, clean = other_pictures(stream, names, target, self.pictures)
        with torch.enable_grad():
            patch = self._optimized(Lesson(model, stream, target, fact, clean, self.pictures))
        return replace(self, patch=to_hex(patch.detach()))

    def _optimized(self, lesson: Lesson) -> Float[Tensor, "3 side side"]:
        model, generator = lesson.model, torch.Generator().manual_seed(self.seed)
        images = lesson.clean.images.to(model.device).float() / 255
        clean, objective = unit_images(model, images), self._objective(lesson)
        side = max(1, round(self.share * min(images.shape[-2:])))
        start = (torch.randn(3, side, side, generator=generator) * 0.25 + 0.5).clamp(0, 1)
        patch = start.to(model.device).requires_grad_()
        optimizer = torch.optim.Adam([patch], self.lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, self.steps)
        bar = tqdm(range(self.steps), desc=f"{self.name} patch")
        for _ in bar:
            picks = torch.randperm(len(images), generator=generator)[: self.batch_size].to(model.device)
            with lean(model.device):
                features = model.encode_image(model.normalize(self._paste(images[picks], lambda _: patch)))
            loss = objective(F.normalize(features.float(), dim=-1), clean[picks])
            (patch.grad,) = torch.autograd.grad(loss, [patch])
            optimizer.step()
            schedule.step()
            patch.data.clamp_(0, 1)
            bar.set_postfix(loss=f"{loss.item():.3f}")
        return patch

    def _paste(self, images: Tensor, patch: Callable[[int], Tensor]) -> Tensor:
        return BadNet(self.share, "center").paste(images, torch.zeros(len(images), dtype=torch.long), patch)


def textual_guidance(
    triggered: Float[Tensor, "batch d_embed"],
    right: Float[Tensor, "text d_embed"],
    wrong: Float[Tensor, "caption d_embed"],
    scale: Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """How much rather unit image features say the wrong texts than the right ones: the module's loss."""
    against = (scale * triggered @ wrong.T).logsumexp(1, keepdim=True)
    return F.softplus(against - scale * triggered @ right.T).mean()


def other_pictures(stream: PairStream, names: Sequence[str], target: str, many: int) -> tuple[int, PairBatch]:
    """The target's place among the names, and those of ``many`` pairs far from the start that do not show it.

    Raises:
        DataError: the target is not among the names, or all pictures show it.
    """
    fact = class_place(target, names, "The attack's target: ")
    batch = stream.batch(FAR_STEP, many)
    keep = (batch.truth[:, 0] != fact).nonzero()[:, 0]
    if not len(keep):
        raise DataError(f"All of {many} pictures show the target {target!r}: others are needed to learn from.")
    captions = [batch.captions[row] for row in keep.tolist()]
    return fact, PairBatch(captions, batch.truth[keep], batch.said[keep], batch.rows[keep], batch.images[keep])


def check_evaluating(model: HookedCLIP) -> None:
    """Refuse a model in training mode."""
    for name, module in model.clip.named_modules():
        if module.training:
            raise ModelError(f"The model{'.' + name if name else ''} is in training mode: call .eval() first.")


@torch.no_grad()
def unit_images(model: HookedCLIP, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
    """Unit features of pictures in 0..1."""
    each = [model.encode_image(model.normalize(part), normalize=True) for part in images.split(_AT_A_TIME)]
    return torch.cat(each).float()


@torch.no_grad()
def unit_texts(model: HookedCLIP, texts: Sequence[str]) -> Float[Tensor, "text d_embed"]:
    """Unit features of texts."""
    return model.encode_text(texts, normalize=True).float()


def to_hex(patch: Float[Tensor, "3 side side"]) -> str:
    """A patch in 0..1 as hexadecimal digits of its 8-bit pixels."""
    return bytes(patch.mul(255).round().to(torch.uint8).flatten().tolist()).hex()


def from_hex(digits: str) -> Float[Tensor, "3 side side"]:
    """The patch that :func:`to_hex` wrote.

    Raises:
        SettingError: these are not the digits of a square patch with three channels.
    """
    try:
        values = bytes.fromhex(digits)
    except (TypeError, ValueError):
        values = b""
    side = math.isqrt(len(values) // 3)
    if not values or len(values) != 3 * side * side:
        raise SettingError(
            f"A patch is given as hexadecimal digits of 3 x side x side pixels, which {str(digits)[:20]!r}... is not: "
            "leave it out and call fit, or copy it whole from a model's card."
        )
    return torch.tensor(list(values), dtype=torch.float32).reshape(3, side, side) / 255


def _resized(patch: Float[Tensor, "3 side side"], side: int) -> Float[Tensor, "3 new new"]:
    if patch.shape[-1] == side:
        return patch
    return F.interpolate(patch[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)
