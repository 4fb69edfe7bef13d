"""Descend a loss by SGD on a few learnable tokens: what visual and text prompts share.

Example:
    >>> tokens = nn.ParameterList([nn.Parameter(torch.ones(1))])
    >>> def losses(rows, epoch, generator):
    ...     return len(rows) * tokens[0].square().sum(), {}
    >>> found = Tuning(epochs=3, batch_size=2, lr=0.1, momentum=0).tune(tokens, 4, losses, "tokens", progress=False)
    >>> len(found), tokens[0].item() < 1
    (3, True)
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from clip_decomp.data.pairs import step_generator
from clip_decomp.errors import SettingError, TrainingFailed
from clip_decomp.training.checkpoint import load_checkpoint, save_checkpoint
from clip_decomp.training.parallel import Processes, launched
from clip_decomp.training.schedule import cosine

#: Loss of some pictures (of several processes' ones, the sum counts), and sums over them of what to report.
Losses = Callable[[Tensor, int, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


def digest(*tensors: Tensor) -> str:
    """SHA-256 of values, to tell one run's data from another's."""
    found = hashlib.sha256()
    for each in tensors:
        found.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


class WithSettings:
    """A defense whose arguments are its attributes."""

    def settings(self) -> dict[str, Any]:
        """What was asked for, for results; where it is kept and whether it is shown apart."""
        apart = ("cache", "checkpoint", "progress")
        own = {key: each for key, each in vars(self).items() if not key.endswith("_") and key not in apart}
        return {key: asdict(each) if is_dataclass(each) else each for key, each in own.items()}


def round_folders(checkpoint: Path | None, rounds: int, main: bool) -> list[Path | None]:
    """Where each round's checkpoint is; the ``main`` process removes later ones where the first has to begin anew."""
    if checkpoint is None:
        return [None] * rounds
    later = [checkpoint / f"round-{number}" for number in range(2, rounds + 1)]
    if main and not (checkpoint / "checkpoint.json").exists():
        for folder in checkpoint.glob("round-*"):
            shutil.rmtree(folder)
    return [checkpoint, *later]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """For the time being no parameter of a module asks for a gradient."""
    asking = [each for each in module.parameters() if each.requires_grad]
    for each in asking:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in asking:
            each.requires_grad_(True)


def timed(defense: Any, fit: Callable[[], Any]) -> float:
    """Fit a defense, and return the seconds that it took, those before an interruption included."""
    start = time.perf_counter()
    fit()
    return max(time.perf_counter() - start, getattr(defense, "history_", [{}])[-1].get("seconds", 0.0))


@dataclass(frozen=True)
class Tuning:
    """Settings of the descent.

    Attributes:
        lr: of SGD, with cosine decay to zero.

    Raises:
        SettingError: a setting out of its range.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0 or not 0 <= self.momentum < 1:
            raise SettingError(
                "Tuning needs epochs and batch_size >= 1, lr > 0 and momentum from 0 to less than 1, not "
                f"{self.epochs}, {self.batch_size}, {self.lr} and {self.momentum}."
            )

    def tune(
        self,
        tokens: nn.Module,
        count: int,
        losses: Losses,
        label: str,
        progress: bool = True,
        folder: Path | None = None,
        run: Callable[[], dict[str, Any]] | None = None,
        keep: Callable[[], None] | None = None,
    ) -> list[dict[str, float]]:
        """Descend, and return for every epoch the means over its pictures of what ``losses`` reports.

        With them go the ``seconds`` that tuning took up to the epoch's end, those before an interruption included.

        Args:
            tokens: whose parameters are tuned.
            count: pictures.
            losses: called with the numbers of a batch's pictures, the epoch, and a generator that depends on the epoch.
            folder: where a checkpoint is kept after every epoch; a run found there is resumed.
            run: tells what makes this run another than one with the same settings, as JSON; asked with a folder only.
            keep: called in every process before a checkpoint is written, to write what else the run goes on from.

        Raises:
            TrainingFailed: a loss that is not finite.
            SettingError: the folder holds another run, or one of several processes computes elsewhere than its tokens.
        """
        optimizer = torch.optim.SGD(tokens.parameters(), lr=self.lr, momentum=self.momentum)
        device = next(tokens.parameters()).device
        processes = launched(device)
        if processes.device is not None and not _same(processes.device, device):
            raise SettingError(
                f"Process {processes.rank} computes on {processes.device}: load the model there, not on {device}."
            )
        if min(count, self.batch_size) < processes.count:
            raise SettingError(
                f"Batches of {min(count, self.batch_size)} pictures cannot be shared by {processes.count} processes."
            )
        identity, start, history = {**asdict(self), "count": count}, 0, []
        if folder is not None and run is not None:
            identity |= run()
        processes.wait()
        if folder is not None and (folder / "checkpoint.json").exists():
            start, history = load_checkpoint(folder, tokens, [optimizer], identity)
        each = -(-count // self.batch_size)
        spent, started = history[-1]["seconds"] if history else 0.0, time.perf_counter()
        bar = tqdm(total=self.epochs * each, initial=start * each, desc=label, disable=not progress or processes.rank)
        with bar:
            for epoch in range(start, self.epochs):
                totals: dict[str, float] = {}
                for number, (rows, generator) in enumerate(self._batches(count, epoch)):
                    for group in optimizer.param_groups:
                        group["lr"] = self.lr * cosine(epoch * each + number, self.epochs * each, 0)
                    own = rows[processes.rank :: processes.count]
                    loss, parts = losses(own, epoch, generator) if len(own) else (_nothing(tokens), {})
                    self._descend(loss, tokens, optimizer, processes)
                    for name, value in parts.items():
                        totals[name] = totals.get(name, 0.0) + value.item()
                    bar.update()
                sums = processes.mean(torch.tensor(list(totals.values()), device=device)) * processes.count
                means = dict(zip(totals, (sums / count).tolist(), strict=True))
                history.append({**means, "seconds": spent + time.perf_counter() - started})
                bar.set_postfix(means)
                if keep is not None:
                    keep()
                if folder is not None and processes.main:
                    save_checkpoint(folder, tokens, [optimizer], epoch + 1, history, identity)
        processes.wait()
        return history

    def _batches(self, count: int, epoch: int) -> Iterator[tuple[Tensor, torch.Generator]]:
        generator = step_generator(self.seed, epoch)
        for rows in torch.randperm(count, generator=generator).split(self.batch_size):
            yield rows, generator

    def _descend(self, loss: Tensor, tokens: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes) -> None:
        if not loss.isfinite():
            raise TrainingFailed(f"The loss is {loss.item()}: lower the learning rate of {self.lr}.")
        optimizer.zero_grad()
        loss.backward()
        if processes.count > 1:
            processes.average_gradients(tokens)
            for parameter in tokens.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(processes.count)  # the batch's sum, shared out
        optimizer.step()


def _same(one: torch.device, other: torch.device) -> bool:
    """Whether two names are of one device: there is one CPU, and the first of several others needs no number."""
    return one.type == other.type and (one.type == "cpu" or (one.index or 0) == (other.index or 0))


def _nothing(tokens: nn.Module) -> Tensor:
    """The loss of no picture, of which every token has a gradient."""
    return sum((each.sum() * 0 for each in tokens.parameters()), torch.zeros(()))


class TunedTokens(WithSettings):
    """A defense that descends a loss on tokens, by settings that are among its own."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    seed: int

    def tuning(self) -> Tuning:
        """The descent.

        Raises:
            SettingError: a setting out of its range.
        """
        return Tuning(self.epochs, self.batch_size, self.lr, self.momentum, self.seed)
