r"""Trigger inversion: the noise that makes pictures look like those of another class to an image tower.

The inner loop of CBPT (Kong et al. 2025), reconstructed from the text, the formulas being lost in our copy. For a
picture x with feature v = V(x) and a positive feature :math:`v^+` (a clean picture of the class aimed at),

.. math::
    \min_{\|\delta\| \le \epsilon} -\log \frac{\exp(\cos(v', v^+) / \tau)}
        {\exp(\cos(v', v^+) / \tau) + \exp(\cos(v', v) / \tau)}, \qquad v' = V(x + \delta)

by gradient descent from :math:`\delta = 0`, projected after every step. Losses are summed over pictures, so each
picture's noise is what it would be alone. The norm and the budget are lost, too; the learning rate belongs to the norm:

=========  =================================================================================================
``l2``     the paper's "-norm" is unknown; raw gradients, learning rate 0.1 as in the text
``linf``   each step moves every value by ``lr`` times the budget, against the gradient's sign (as PGD does)
=========  =================================================================================================

Limits: noise is in pixel units; pixels stay within 0..1, but for universal noise, which knows no single picture. The
image tower is only called, so every kind will do.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> noise = invert_trigger(model, torch.zeros(2, 3, 64, 64), "banana", Inversion(steps=1, budget=0.5))
    >>> noise.shape, bool(noise.flatten(1).norm(dim=1).max() <= 0.5001)
    (torch.Size([2, 3, 64, 64]), True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.training.lean import lean
from clip_decomp.zeroshot import class_vectors

from .tuning import frozen

Norm = Literal["l2", "linf"]
Positives = Literal["farthest", "nearest", "random"]
#: Largest norms of noise where nobody says one.
BUDGETS: dict[Norm, float] = {"l2": 2.0, "linf": 8 / 255}


@dataclass(frozen=True)
class Inversion:
    """Settings of the inner loop.

    Attributes:
        lr: step length; under ``linf`` as a share of the budget.
        budget: largest norm of the noise, in pixel units (0..1), of the whole picture (l2, by default 2) or of a value
            (linf, by default 8 of 255, and never more than 1).
        positives: which picture of the class aimed at is the positive: the one farthest from a picture, the nearest, or
            a random one.

    Raises:
        SettingError: a setting out of its range.
    """

    steps: int = 10
    lr: float = 0.1
    norm: Norm = "l2"
    budget: float = None  # type: ignore[assignment]  # known by the norm once it is made
    positives: Positives = "farthest"

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm) or self.positives not in get_args(Positives):
            raise SettingError(f"Unknown norm {self.norm!r} (l2, linf) or positives {self.positives!r}.")
        if self.budget is None:
            object.__setattr__(self, "budget", BUDGETS[self.norm])
        if self.steps < 1 or not self.lr > 0 or not self.budget > 0:
            raise SettingError(
                f"Inversion needs steps >= 1, lr and budget > 0: {self.steps}, {self.lr}, {self.budget}."
            )
        if self.norm == "linf" and self.budget > 1:
            raise SettingError(f"Under linf a budget is of one value in 0..1, and {self.budget} is no bound of it.")

    def positive(
        self,
        features: Float[Tensor, "batch d_embed"],
        wanted: Int[Tensor, " batch"],
        bank: Float[Tensor, "image d_embed"],
        labels: Int[Tensor, " image"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch d_embed"]:
        """A clean feature of class ``wanted`` for every picture; all features of unit norm.

        Raises:
            DataError: no picture of a class is among the clean ones.
        """
        own = labels[None] == wanted[:, None]
        if not own.any(1).all():
            raise DataError(f"There is no clean picture of class {int(wanted[~own.any(1)][0])} to be a positive.")
        if self.positives == "random":
            score = torch.rand(own.shape, generator=generator).to(own.device)
        else:
            score = features @ bank.T * (1 if self.positives == "nearest" else -1)
        return bank[score.masked_fill(~own, -torch.inf).argmax(1)]

    def step(self, noise: Tensor, gradient: Tensor) -> Tensor:
        """Noise after a step of descent, within the budget."""
        if self.norm == "linf":
            return (noise - self.lr * self.budget * gradient.sign()).clamp(-self.budget, self.budget)
        moved = noise - self.lr * gradient
        return moved * (self.budget / moved.flatten(1).norm(dim=1).clamp(min=self.budget))[:, None, None, None]


def invert_trigger(
    model: HookedCLIP,
    images: Float[Tensor, "batch 3 row column"],
    target: str | Float[Tensor, "batch d_embed"],
    settings: Inversion | None = None,
    universal: bool = False,
    bf16: bool = True,
) -> Float[Tensor, "batch 3 row column"]:
    """Noise in pixel units for normalized images.

    Args:
        target: positive features of unit norm, one a picture or one for all; or a class, whose text stands for it.
        universal: one noise for all pictures: ``[1, 3, row, column]``. Its loss is the mean over them.
    """
    settings = settings or Inversion()
    if isinstance(target, str):
        target = class_vectors(model, [target])
    pixels = model.denormalize(images)
    with frozen(model.clip):
        with torch.no_grad(), lean(model.device, bf16):
            negative = model.encode_image(images, normalize=True).float()
        positive, scale = target.to(negative).expand_as(negative), model.logit_scale.detach()
        noise = torch.zeros_like(images[:1] if universal else images)
        for _ in range(settings.steps):
            noise.requires_grad_(True)
            with lean(model.device, bf16):
                features = model.encode_image(model.normalize(pixels + noise), normalize=True).float()
            logits = scale * torch.stack([(features * positive).sum(1), (features * negative).sum(1)], dim=1)
            loss = -F.log_softmax(logits, dim=1)[:, 0]
            (gradient,) = torch.autograd.grad(loss.mean() if universal else loss.sum(), noise)
            noise = settings.step(noise.detach(), gradient)
            if not universal:  # within every picture's pixels
                noise = (pixels + noise).clamp(0, 1) - pixels
    return noise
