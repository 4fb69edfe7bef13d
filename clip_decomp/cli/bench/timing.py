"""Measuring works side by side, and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TypeVar

Result = TypeVar("Result")


def side_by_side(works: Sequence[Callable[[], object]], rounds: int, warm: bool = True) -> list[float]:
    """Median seconds of each work; works take turns, so that a slow moment hits all of them.

    Args:
        warm: let each work run once before it is measured.
    """
    return [median(taken) for taken in turns(works, rounds, warm)]


def turns(works: Sequence[Callable[[], object]], rounds: int, warm: bool = True) -> list[list[float]]:
    """Seconds of each work in every round; on a GPU a work must wait for its own end."""
    for work in works if warm else ():
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return times


def peak_memory(device: str = "cpu") -> float:
    """Largest resident memory of this process so far, or what it took of a CUDA device, in bytes; there and on Linux
    since :func:`forget_peak`.
    """
    if on_cuda(device):
        import torch

        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        return 1024.0 * int(status.read_text().split("VmHWM:")[1].split()[0])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_name(device: str) -> str:
    """What computes: the name of a CUDA device, else as torch calls it."""
    if not on_cuda(device):
        return device
    import torch

    return torch.cuda.get_device_name(device)


def held_memory(device: str = "cpu") -> float:
    """Bytes that this process holds, of a CUDA device those allocated there."""
    if on_cuda(device):
        import torch

        return float(torch.cuda.memory_allocated(device))
    from psutil import Process

    return float(Process().memory_info().rss)


def forget_peak(device: str = "cpu") -> None:
    """Count the peak from here on, where the system can: loading weights takes more than using them."""
    if on_cuda(device):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def waited(device: str) -> None:
    """Return when a CUDA device is done with what it was given."""
    if on_cuda(device):
        import torch

        torch.cuda.synchronize(device)


def alone(work: Callable[..., Result], *arguments: object) -> Result:
    """What a work returns that is done in a process of its own, because the peak of memory only rises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def on_cuda(device: str) -> bool:
    """Whether that is a CUDA device, of whatever number."""
    return device.partition(":")[0] == "cuda"
