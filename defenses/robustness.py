"""Accuracy under adversarial noise: projected gradient descent (Madry et al. 2018), by foolbox.

RVPT's table 10: repelling is not adversarial training, and does not help against noise that is made for a picture.

Limits: foolbox is an optional dependency (``pip install foolbox``).

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model, data = clip_decomp.load("world/clean"), open_data("world", 64, test=26).test
    >>> pgd_accuracy(model, data, model.logit_scale.item(), budget=1e-6, steps=1).value > 0.9
    True
"""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clip_decomp.contributions import pictures
from clip_decomp.data.sets import BATCH_SIZE, ImageSet
from clip_decomp.errors import SettingError
from clip_decomp.evaluation import Classifier, Encoder, PromptedClassifier, Rate, Scorer, rate, scorer


def pgd(
    logits: Scorer,
    pixels: Float[Tensor, "batch 3 row column"],
    labels: Int[Tensor, " batch"],
    budget: float = 8 / 255,
    steps: int = 10,
    seed: int = 0,
) -> Float[Tensor, "batch 3 row column"]:
    """Pictures in 0..1, changed by at most ``budget`` a value to raise the cross-entropy of their labels.

    Each step moves values by a quarter of the budget; the start is random. Pictures and labels lie on the CPU, whose
    generator the start is drawn from, wherever the model computes.

    Raises:
        SettingError: foolbox is missing, or a budget or number of steps that is not positive.
    """
    check_noise(budget, steps)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # foolbox imports scipy by old names
            from eagerpy.astensor import astensor
            from foolbox.attacks import LinfPGD
            from foolbox.models.pytorch import PyTorchModel
    except ImportError as error:
        raise SettingError("Adversarial noise needs foolbox: pip install foolbox.") from error

    class WithoutWeights(LinfPGD):
        """foolbox would leave gradients in the model's weights."""

        def value_and_grad(self, loss_fn, x):
            noisy = x.raw.clone().requires_grad_()
            loss = loss_fn(astensor(noisy))
            return loss, astensor(torch.autograd.grad(loss.raw, noisy)[0])

    attack = WithoutWeights(abs_stepsize=budget / 4, steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = PyTorchModel(_Module(logits).eval(), bounds=(0, 1), device=pixels.device)
        with torch.enable_grad():
            return attack.run(module, pixels, labels, epsilon=budget).detach()


def check_noise(budget: float, steps: int) -> None:
    """Refuse a budget or a number of steps that is not positive, with a SettingError."""
    if steps < 1 or not budget > 0:
        raise SettingError(f"PGD needs steps >= 1 and a budget > 0, not {steps} and {budget}.")


def pgd_accuracy(
    model: Encoder | Classifier | PromptedClassifier,
    data: ImageSet,
    scale: float,
    budget: float = 8 / 255,
    steps: int = 10,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> Rate:
    """Share of pictures that are still given their true class under noise made against this very model.

    Args:
        scale: the inverse temperature of the model's logits.
    """
    logits, right, count = scorer(model, data.class_names, data.templates, scale), 0, 0
    for pixels, labels, _ in pictures(data, None, batch_size, progress):
        noisy = pgd(logits, pixels, labels, budget, steps, seed)
        with torch.no_grad():
            right += int((logits(noisy).argmax(1) == labels).sum())
        count += len(labels)
    return rate(right, count)


class _Module(nn.Module):
    """What foolbox wants a function to be."""

    def __init__(self, logits: Scorer):
        super().__init__()
        self.logits = logits

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits(pixels)
