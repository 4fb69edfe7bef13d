"""One contrastive training loop for everything: tiny CLIPs from scratch, poisoned and clean fine-tuning.

Hidden matrices are trained with Muon (torch's own), everything else with AdamW; ``muon_lr=None`` trains everything with
AdamW, as the papers' fine-tuning does. The learning rate warms up and then either stays and decays linearly over the
last part of the run, so that a run can be resumed with more steps, or follows half a cosine. Batches depend on the seed
and the step alone, and checkpoints hold the optimizers' states, so an interrupted run resumes to the same numbers.

Under ``torchrun --nproc-per-node N`` or, with several GPUs, ``accelerate launch`` each process works on its part of
every batch, and the numbers are those of one process up to rounding (losses to 1e-6 in float32, to some 1e-3 in
bfloat16); only the main process writes files. Micro-batches (``accumulate``) do not change them either: see
:mod:`clip_decomp.training.step`.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor, nn
from tqdm import tqdm

from ..data.pairs import PairStream
from ..errors import SettingError, TrainingFailed
from .ahead import DrawnAhead
from .checkpoint import load_checkpoint, save_checkpoint
from .optimizers import make_optimizers
from .parallel import Processes, launched
from .settings import TrainSettings
from .step import ContrastiveStep

__all__ = ["TrainSettings", "train"]

log = logging.getLogger(__name__)

#: What may change when a run is resumed: more steps, or what does not change the numbers.
_FREE = ("steps", "checkpoint_every", "accumulate")


def train(
    model: CLIP,
    tokenize: Callable[[list[str]], Tensor],
    normalize: Callable[[Tensor], Tensor],
    stream: PairStream,
    settings: TrainSettings,
    folder: Path | None = None,
    monitor: Callable[[CLIP, int], dict[str, float]] | None = None,
    progress: bool = True,
    run: Mapping[str, Any] | None = None,
    step_type: Callable[..., ContrastiveStep] = ContrastiveStep,
    workers: int = 0,
) -> list[dict[str, float]]:
    """Train ``model`` in place and return its log, one entry every 50 steps and at every checkpoint.

    Args:
        tokenize: captions to token ids.
        normalize: pictures in 0..1 to the model's input.
        folder: where checkpoints go; a run found there is resumed. Several processes must share it.
        monitor: extra measurements at every checkpoint, as ``monitor(model, step)``; the main process takes them.
        run: what makes this run another than one with the same settings, as JSON.
        step_type: makes what draws the batches and says what their loss is.
        workers: processes that draw batches ahead, for devices that would wait for pictures; 0 draws them here.

    Returns:
        ``step``, ``loss``, ``samples_per_second`` since the run was started or resumed, and ``seconds`` that training
        took in all, with monitors' measurements where there are any.

    Raises:
        TrainingFailed: the loss or its gradient is not finite.
        SettingError: the folder holds another run, the batch cannot be split as asked, or there are no such workers.
    """
    processes = launched(model.logit_scale.device)
    if processes.device is not None:
        model.to(processes.device)
    loss_at = step_type(model, tokenize, normalize, stream, settings, processes)
    optimizers = make_optimizers(model, settings)
    identity = {key: value for key, value in asdict(settings).items() if key not in _FREE} | dict(run or {})
    start, history = 0, []
    processes.wait()  # a run that was interrupted a moment ago: the main process may still be writing its checkpoint
    if folder is not None and (folder / "checkpoint.json").exists():
        start, history = load_checkpoint(folder, model, optimizers, identity)
        if start > settings.steps:
            raise SettingError(
                f"{folder} holds {start} steps of this run, more than {settings.steps}: use another folder."
            )
        log.info("resuming %s at step %d", folder, start)
    _start_together(model, processes, start, folder)
    steps, own = range(start, settings.steps), processes.part(settings.batch_size)
    ahead = DrawnAhead(stream, steps, settings.batch_size, workers, own) if workers else None
    loss_at = loss_at if ahead is None else replace(loss_at, stream=ahead)
    was_training = model.training
    model.train()
    spent, started = history[-1]["seconds"] if history else 0.0, time.perf_counter()
    shown = progress and processes.main
    bar = tqdm(steps, initial=start, total=settings.steps, disable=not shown, desc="train")
    try:
        for step in bar:
            loss = _descend(loss_at, optimizers, step)
            last = step + 1 == settings.steps
            save = folder is not None and ((step + 1) % settings.checkpoint_every == 0 or last)
            if step % 50 == 49 or last or save:
                seconds = time.perf_counter() - started
                speed = (step + 1 - start) * settings.batch_size / seconds
                entry = {"step": step + 1, "loss": loss.item(), "samples_per_second": speed, "seconds": spent + seconds}
                history.append(entry)
                bar.set_postfix(loss=f"{entry['loss']:.3f}", rate=f"{speed:.0f}/s")
            if folder is not None and save and processes.main:
                if monitor is not None:
                    model.eval()
                    history[-1].update(monitor(model, step + 1))
                    model.train()
                save_checkpoint(folder, model, optimizers, step + 1, history, identity)
                (folder / "train.json").write_text(json.dumps({"settings": asdict(settings), "log": history}, indent=1))
    finally:
        bar.close()
        if ahead is not None:
            ahead.close()
        model.train(was_training)
    processes.wait()  # the checkpoint is there when any of them goes on
    return history


def _descend(loss_at: ContrastiveStep, optimizers: list[torch.optim.Optimizer], step: int) -> Tensor:
    """One step of training; returns its loss."""
    model, rate = loss_at.clip, loss_at.settings.rate(step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        optimizer.zero_grad(set_to_none=True)
    loss = loss_at(step)
    _require_finite("loss", loss, step)
    _require_finite("gradient's norm", nn.utils.clip_grad_norm_(model.parameters(), 5.0), step)
    for optimizer in optimizers:
        optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, 4.6052)  # exp = 100, as in CLIP
    return loss


def _start_together(model: CLIP, processes: Processes, start: int, folder: Path | None) -> None:
    (starts,) = processes.gather(torch.tensor([start], device=model.logit_scale.device))
    if starts.min() != starts.max():
        raise SettingError(
            f"The processes found different checkpoints in {folder}, of steps {sorted(set(starts.tolist()))}: "
            "it must lie where all of them can read it."
        )
    processes.share(model)


def _require_finite(what: str, value: Tensor, step: int) -> None:
    if not torch.isfinite(value):
        raise TrainingFailed(f"The {what} became {value.item()} at step {step}: lower the learning rate.")
