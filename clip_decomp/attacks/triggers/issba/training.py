"""Training of ISSBA's networks on any pictures.

Each step hides random messages, damages the pictures a little (noise that covers rounding to 8 bits, and in half of the
steps a resize and back), and has the decoder read them:

    loss = cross-entropy of the bits + | cosine(r_i, r_j) - alike |

where r_i and r_j are the residuals of two pictures with the same message. Without the second term the encoder learns
one pattern for all pictures (a cosine of 0.99), which is no sample-specific trigger. The residuals start three times as
strong as they will be, and alike, and reach their settings halfway; asked to differ from the start, they were not
learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from ....errors import TrainingFailed
from .network import Steganographer, resized

_NOISE = 1 / 255
_STRONG = 3.0
_WARMUP, _DECAY = 50, 0.4


@dataclass(frozen=True)
class Plan:
    """How to train; as :class:`~clip_decomp.attacks.triggers.issba.ISSBA` describes it."""

    strength: float
    alike: float
    steps: int
    batch_size: int
    lr: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate: a short warm-up, and a linear decay at the end."""
        return self.lr * min(1.0, (step + 1) / _WARMUP, (self.steps - step) / (_DECAY * self.steps))

    def goals(self, step: int) -> tuple[float, float]:
        """Strength, in 0..1, and cosine that are asked for at this step."""
        left = max(0.0, 1 - 2 * step / self.steps)
        return self.strength / 255 * (1 + left * (_STRONG - 1)), self.alike + left * (1 - self.alike)


def train(network: Steganographer, pictures: UInt8[Tensor, "picture 3 row column"], bits: int, plan: Plan) -> None:
    """Train ``network`` in place, on its device; the same seed gives the same weights.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.lr, weight_decay=0.01)
    bar = tqdm(range(plan.steps), desc="ISSBA", leave=False)
    for step in bar:
        optimizer.param_groups[0]["lr"] = plan.rate(step)
        picks = torch.randint(len(pictures), (plan.batch_size,), generator=generator)
        images = resized(pictures[picks].to(device).float() / 255, network.size, network.size)
        # The two halves of a batch carry the same messages.
        words = torch.randint(2, (plan.batch_size // 2, bits), generator=generator).float().repeat(2, 1).to(device)
        loss = _loss(network, images, words, plan.goals(step), generator)
        if not torch.isfinite(loss):
            raise TrainingFailed(f"ISSBA's loss became {loss.item()} at step {step}: lower lr (it is {plan.lr}).")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")


def _loss(
    network: Steganographer, images: Tensor, words: Tensor, goals: tuple[float, float], generator: torch.Generator
) -> Float[Tensor, ""]:
    strength, alike = goals
    residual = network.residual(images, words)
    one, other = residual.chunk(2)
    cosine = (one * other).mean((1, 2, 3))
    logits = network.read(_damaged((images + strength * residual).clamp(0, 1), generator))
    return F.binary_cross_entropy_with_logits(logits, words) + (cosine - alike).abs().mean()


def _damaged(images: Float[Tensor, "batch 3 row column"], generator: torch.Generator) -> Tensor:
    images = images + _NOISE * torch.randn(images.shape, generator=generator).to(images.device)
    size = images.shape[-1]
    if torch.rand((), generator=generator) < 0.5:
        between = int(torch.randint(size + size // 8, 2 * size + size // 2, (), generator=generator))
        images = resized(resized(images, between, between), size, size)
    return images
