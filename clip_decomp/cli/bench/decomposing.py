"""What a decomposition costs beside plain encoding: time in turns, memory in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from ...results import Results
from ..run import Clock, Device, Json, Out, Seed, check_device, finish
from .timing import alone, forget_peak, peak_memory, turns, waited

if TYPE_CHECKING:
    from torch import Tensor

    from ...model import HookedCLIP

_DTYPES = ("fp32", "bf16", "fp16")


def decompose(
    model: Annotated[str, typer.Option(help="open_clip or zoo name; weights do not matter.")] = "ViT-B-32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    tokens: Annotated[bool, typer.Option("--tokens", help="Keep the token axis; maps of all heads.")] = False,
    texts: Annotated[int, typer.Option(min=1, help="Texts that maps are taken toward.")] = 100,
    dtype: Annotated[str, typer.Option(help=f"Of the tower: {', '.join(_DTYPES)}.")] = "fp32",
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of runs; the median of their ratios counts.")] = 9,
    memory: Annotated[bool, typer.Option(help="Measure memory, too: loads the model twice more.")] = True,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Decompositions against the original model's own encode_image, on noise."""
    import torch

    from ...errors import SettingError

    if dtype not in _DTYPES:
        raise SettingError(f"There is no dtype {dtype!r}: use {', '.join(_DTYPES)}.")
    clock, where = Clock(), check_device(device)
    works = _works(model, batch_size, tokens, texts, dtype, where, seed)
    with torch.inference_mode():
        plain, ours = turns(works, rounds)
    ratio = median(first / second for first, second in zip(plain, ours, strict=True))
    metrics = {
        "images-per-second;of=encode": batch_size / median(plain),
        "images-per-second;of=decompose": batch_size / median(ours),
        "throughput-over-plain": ratio,
    }
    rows = [
        ("encode_image", f"{batch_size / median(plain):.1f} images a second"),
        (
            "decompose",
            f"{batch_size / median(ours):.1f} images a second, {ratio:.3f} of plain (median of {rounds} pairs)",
        ),
    ]
    if memory:
        peaks = [alone(_peak, model, batch_size, tokens, texts, dtype, where, seed, which) for which in (0, 1)]
        metrics |= {"peak-megabytes;of=encode": peaks[0] / 1e6, "peak-megabytes;of=decompose": peaks[1] / 1e6}
        metrics["peak-memory-over-plain"] = peaks[1] / peaks[0]
        rows.append(
            ("peak memory", f"{peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB: {peaks[1] / peaks[0]:.3f} of plain")
        )
    settings = {"model": model, "batch_size": batch_size, "tokens": tokens, "texts": texts, "dtype": dtype}
    settings |= {"rounds": rounds, "threads": torch.get_num_threads(), "device": where}
    named = {f"synthetic/clean/none/{key}": value for key, value in metrics.items()}
    results = Results("bench decompose", "synthetic", seed, settings, {"images": batch_size}, named, clock())
    finish(results, out, as_json, rows)


def _works(
    name: str, batch_size: int, tokens: bool, texts: int, dtype: str, device: str, seed: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The original's encoding and our decomposing of the same images."""
    import torch

    from ...models.loading import load

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    torch.manual_seed(seed)  # of random weights; a process of the command's own
    model = load(name)
    model.clip.to(device, kinds[dtype])
    source, side = torch.Generator().manual_seed(seed), model.visual.image_size
    images = torch.randn(batch_size, 3, side, side, generator=source).to(device, kinds[dtype])
    toward = torch.nn.functional.normalize(torch.randn(texts, model.visual.d_embed, generator=source), dim=-1)

    def finished(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            work()
            waited(device)

        return run

    return finished(lambda: model.clip.encode_image(images)), finished(
        _decomposing(model, images, tokens, toward.to(device))
    )


def _decomposing(model: HookedCLIP, images: Tensor, tokens: bool, toward: Tensor) -> Callable[[], object]:
    """All heads' contributions, or what every token pushes through every head toward texts."""
    if not tokens:
        return lambda: model.decompose(images).heads
    return lambda: model.decompose(images, tokens=True).token_map(toward)


def _peak(
    name: str, batch_size: int, tokens: bool, texts: int, dtype: str, device: str, seed: int, which: int
) -> float:
    """Bytes at the peak of one work, weights and the libraries included, in a process of its own."""
    import torch

    work = _works(name, batch_size, tokens, texts, dtype, device, seed)[which]
    forget_peak(device)
    with torch.inference_mode():
        for _ in range(3):
            work()
    return peak_memory(device)
