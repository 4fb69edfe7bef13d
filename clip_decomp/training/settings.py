"""Settings of a training run.

Example:
    >>> TrainSettings(steps=100, warmup=10).rate(4)
    0.5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import SettingError
from .schedule import cosine, linear

#: Which captions a picture is told apart from: those of all processes' pairs, or of its own process's alone.
Negatives = Literal["global", "local"]
#: How the learning rate falls after the warm-up.
Schedule = Literal["linear", "cosine"]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run.

    Attributes:
        batch_size: pairs a step, of all micro-batches and processes together.
        lr: AdamW's peak learning rate.
        muon_lr: Muon's peak learning rate for hidden matrices (on AdamW's scale); None uses AdamW for all.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which a linear schedule falls to zero.
        patch_dropout: share of patches left out of each picture in training (Li et al., FLIP, arXiv 2212.00794).
        whole: share of the steps, at the end, that see whole pictures all the same.
        bf16: compute in bfloat16 where autocast allows it.
        schedule: ``linear``, or ``cosine``, which falls from the end of the warm-up on.
        accumulate: micro-batches that a process works through one after the other to save memory. Gradients stay those
            of the whole batch; the time rises by one more forward pass.
        negatives: with several processes, ``global`` tells each picture from all captions of the step, as one process
            would; ``local`` from those of its own process, so that fewer pairs are compared and the numbers depend on
            how many processes there are.
    """

    steps: int
    batch_size: int = 256
    lr: float = 1e-3
    muon_lr: float | None = None
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.3
    patch_dropout: float = 0.0
    whole: float = 0.1
    seed: int = 0
    bf16: bool = True
    checkpoint_every: int = 250
    schedule: Schedule = "linear"
    accumulate: int = 1
    negatives: Negatives = "global"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.checkpoint_every < 1 or self.warmup < 0:
            raise SettingError(f"Need steps and checkpoint_every >= 1, batch_size >= 2 and warmup >= 0: {self}.")
        if not 0 <= self.decay <= 1 or not 0 <= self.patch_dropout < 1 or not 0 <= self.whole <= 1:
            raise SettingError(f"Need decay and whole in 0..1 and patch_dropout from 0 to less than 1: {self}.")
        if not 1 <= self.accumulate <= self.batch_size:
            raise SettingError(f"Need accumulate from 1 to the batch size of {self.batch_size}, not {self.accumulate}.")
        if self.schedule not in ("linear", "cosine"):
            raise SettingError(f"Need a schedule that is linear or cosine, not {self.schedule!r}.")
        if self.negatives not in ("global", "local"):
            raise SettingError(f"Need negatives that are global or local, not {self.negatives!r}.")

    def rate(self, step: int) -> float:
        """Learning rate at ``step`` as a share of the peak."""
        if self.schedule == "cosine":
            return cosine(step, self.steps, self.warmup)
        return linear(step, self.steps, self.warmup, self.decay)

    def dropped(self, step: int) -> float:
        """Share of patches left out at ``step``."""
        return self.patch_dropout if step < (1 - self.whole) * self.steps else 0.0
