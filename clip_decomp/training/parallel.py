"""The processes that share a run: one, unless ``torchrun`` or ``accelerate launch`` started several.

``torchrun --nproc-per-node N`` works everywhere; ``accelerate launch`` starts several processes on GPUs alone, and one
on CPUs unless it goes through MPI.

Every process holds the whole model and works on its part of every batch. Gradients are averaged by hand after the
backward pass instead of by a DistributedDataParallel wrapper: the towers are called through ``encode_image`` and
``encode_text``, which such a wrapper does not see; an accumulated step has several backward passes, of which a wrapper
would average each; and one reduction at the end is all that is needed for the exact gradient.

Example:
    >>> here = launched(torch.device("cpu"))
    >>> here.count, here.main, here.part(8)
    (1, True, slice(0, 8, None))
    >>> Processes(count=4, rank=1).part(8)
    slice(2, 4, None)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import SettingError


@dataclass(frozen=True)
class Processes:
    """What one process knows of all.

    Attributes:
        rank: this process's number.
        device: where this process computes, if there are several.
    """

    count: int = 1
    rank: int = 0
    device: torch.device | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.rank == 0

    def part(self, size: int) -> slice:
        """This process's places in a batch.

        Raises:
            SettingError: the batch cannot be shared out evenly.
        """
        if size % self.count:
            raise SettingError(f"A batch of {size} pairs cannot be shared by {self.count} processes evenly.")
        each = size // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The rows of all processes, in the order of their parts; without gradient."""
        if self.count == 1:
            return tensors
        from accelerate.utils import gather

        return tuple(cast(Tensor, gather(each)) for each in tensors)

    def mean(self, value: Tensor) -> Tensor:
        """A value's mean over processes."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        return cast(Tensor, reduce(value, "mean"))

    def agree(self, value: bool) -> bool:
        """The main process's answer, for all."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast

        return bool(broadcast(torch.tensor(float(value), device=self.device)))

    def average_gradients(self, module: nn.Module) -> None:
        """Give all processes the mean of their gradients."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        flat = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, flat.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def share(self, module: nn.Module) -> None:
        """Give all processes the main one's weights."""
        if self.count > 1:
            from accelerate.utils import broadcast

            for value in module.state_dict().values():
                value.copy_(broadcast(value.contiguous()))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before all others."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def launched(device: torch.device) -> Processes:
    """The processes of this run, connected; ``device`` says what kind they compute on."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Processes(state.num_processes, state.process_index, state.device)
