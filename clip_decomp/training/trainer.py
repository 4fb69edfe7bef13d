"""One contrastive training loop for everything: tiny CLIPs from scratch, poisoned and clean fine-tuning.

Hidden matrices are trained with Muon (torch's own), everything else with AdamW; ``muon_lr=None`` trains everything with
AdamW, as the papers' fine-tuning does. The learning rate warms up, stays, and decays linearly over the last part of
the run, so that a run can be resumed with more steps. Batches depend on the seed and the step alone, and checkpoints
hold the optimizers' states, so an interrupted run resumes to the same numbers.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout, VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from ..data.pairs import PairStream, matches, step_generator
from ..errors import SettingError, TrainingFailed
from .checkpoint import load_checkpoint, save_checkpoint
from .loss import contrastive_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a run.

    Attributes:
        lr: AdamW's peak learning rate.
        muon_lr: Muon's peak learning rate for hidden matrices (on AdamW's scale); None uses AdamW for all.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the learning rate falls linearly to zero.
        patch_dropout: share of patches left out of each picture in training (Li et al., FLIP, arXiv 2212.00794).
        whole: share of the steps, at the end, that see whole pictures all the same.
        bf16: compute in bfloat16 where autocast allows it.
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

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or self.checkpoint_every < 1 or self.warmup < 0:
            raise SettingError(f"Need steps and checkpoint_every >= 1, batch_size >= 2 and warmup >= 0: {self}.")
        if not 0 <= self.decay <= 1 or not 0 <= self.patch_dropout < 1 or not 0 <= self.whole <= 1:
            raise SettingError(f"Need decay and whole in 0..1 and patch_dropout from 0 to less than 1: {self}.")

    def rate(self, step: int) -> float:
        """Learning rate at ``step`` as a share of the peak."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return rise * min(1.0, left)


def train(
    model: CLIP,
    tokenize: Callable[[list[str]], Tensor],
    normalize: Callable[[Tensor], Tensor],
    stream: PairStream,
    settings: TrainSettings,
    folder: Path | None = None,
    monitor: Callable[[CLIP, int], dict[str, float]] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train ``model`` in place and return its log, one entry every 50 steps and at every checkpoint.

    Args:
        tokenize: captions to token ids.
        normalize: pictures in 0..1 to the model's input.
        folder: where checkpoints go; a run found there is resumed.
        monitor: extra measurements at every checkpoint, as ``monitor(model, step)``.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    device = model.logit_scale.device
    optimizers = _optimizers(model, settings)
    start, history = 0, []
    if folder is not None and (folder / "checkpoint.json").exists():
        start, history = load_checkpoint(folder, model, optimizers)
        log.info("resuming %s at step %d", folder, start)
    was_training = model.training
    model.train()
    started, seen = time.perf_counter(), 0
    bar = tqdm(range(start, settings.steps), initial=start, total=settings.steps, disable=not progress, desc="train")
    try:
        for step in bar:
            dropped = settings.patch_dropout if step < (1 - settings.whole) * settings.steps else 0.0
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * settings.rate(step)
                optimizer.zero_grad(set_to_none=True)
            with _seeded(settings.seed, step, device), _patches_left_out(model, dropped):
                loss = _loss(model, tokenize, normalize, stream, settings, step, device)
            if not torch.isfinite(loss):
                raise TrainingFailed(f"The loss became {loss.item()} at step {step}: lower the learning rate.")
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            for optimizer in optimizers:
                optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, 4.6052)  # exp = 100, as in CLIP
            seen += settings.batch_size
            last = step + 1 == settings.steps
            save = folder is not None and ((step + 1) % settings.checkpoint_every == 0 or last)
            if step % 50 == 49 or last or save:
                speed = seen / (time.perf_counter() - started)
                history.append({"step": step + 1, "loss": loss.item(), "samples_per_second": speed})
                bar.set_postfix(loss=f"{loss.item():.3f}", rate=f"{speed:.0f}/s")
            if folder is not None and save:
                if monitor is not None:
                    model.eval()
                    history[-1].update(monitor(model, step + 1))
                    model.train()
                save_checkpoint(folder, model, optimizers, step + 1, history)
                (folder / "train.json").write_text(json.dumps({"settings": asdict(settings), "log": history}, indent=1))
    finally:
        model.train(was_training)
    return history


@contextmanager
def _seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Random numbers of this step alone, for patch dropout, which draws from the global generator."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(step_generator(seed, step).initial_seed())
        yield


def _loss(model, tokenize, normalize, stream, settings: TrainSettings, step: int, device) -> Float[Tensor, ""]:
    batch = stream.batch(step, settings.batch_size)
    pixels = normalize(batch.images.to(device, non_blocking=True).float() / 255)
    tokens = tokenize(batch.captions).to(device)
    positive = matches(batch.truth, batch.said).to(device)
    # On CPUs the fused attention's backward pass costs three times what plain products do at these sizes.
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16), plain:
        images, texts = model.encode_image(pixels), model.encode_text(tokens)
    images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    return contrastive_loss(images, texts, model.logit_scale.exp(), positive)


@contextmanager
def _patches_left_out(model: CLIP, share: float) -> Iterator[None]:
    """For one step, the image tower sees a random part of its patches (none left out: the tower as it is)."""
    if share == 0:
        yield
        return
    if not isinstance(model.visual, VisionTransformer):
        raise SettingError(f"Patches cannot be left out of a tower of type {type(model.visual).__name__}.")
    own, model.visual.patch_dropout = model.visual.patch_dropout, PatchDropout(share)
    try:
        yield
    finally:
        model.visual.patch_dropout = own


def _optimizers(model: CLIP, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    hidden, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if settings.muon_lr is not None and parameter.ndim == 2 and ".resblocks." in name:
            hidden.append(parameter)
        elif parameter.ndim >= 2 and "embedding" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay, "peak": settings.lr},
                {"params": plain, "weight_decay": 0.0, "peak": settings.lr},
            ],
            lr=settings.lr,
            betas=(0.9, 0.98),
        )
    ]
    if settings.muon_lr is not None:
        muon = torch.optim.Muon(
            hidden, lr=settings.muon_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        for group in muon.param_groups:
            group["peak"] = settings.muon_lr
        optimizers.append(muon)
    return optimizers
