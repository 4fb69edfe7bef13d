"""What a guard costs: time over plain encoding, beside its rivals, and memory over many calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from clip_decomp.cli.bench.timing import side_by_side
from clip_decomp.cli.run import Clock, Device, Json, Out, Seed, finish
from clip_decomp.results import Results

if TYPE_CHECKING:
    from torch import Tensor

    from clip_decomp.model import HookedCLIP


_CALIBRATION, _CLASSES, _SAMPLES = 80, 40, 20


def guard(
    model: Annotated[str, typer.Option(help="open_clip or zoo name; weights do not matter.")] = "ViT-B-32",
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a call.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 9,
    rivals: Annotated[int, typer.Option(min=0, help="Pictures to time STRIP, SCALE-UP and TeCo on; 0 for none.")] = 0,
    calls: Annotated[
        int, typer.Option(min=0, help="Calls of a tiny model's guard, one picture each, to watch memory over.")
    ] = 0,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """A guarded call against open_clip's own encode_image, in one run, on noise."""
    import torch

    from clip_decomp.cli.weights import open_model

    from ..guard import Guard

    clock, hooked = Clock(), open_model(model, device)
    source, side = torch.Generator().manual_seed(seed), hooked.visual.image_size

    def noise(count: int) -> Tensor:
        return torch.randn(count, 3, side, side, generator=source).to(hooked.device)

    guard = Guard.calibrate(hooked, noise(_CALIBRATION), mode="flag")
    images = noise(batch_size)
    with torch.no_grad():
        plain, ours, guarded = side_by_side(
            [lambda: hooked.clip.encode_image(images), lambda: hooked.encode_image(images), lambda: guard(images)],
            rounds,
        )
    metrics = {"encode-over-plain": ours / plain, "guard-over-plain": guarded / plain}
    metrics["plain-images-per-second"] = batch_size / plain
    rows = [
        ("open_clip's encode_image", f"{batch_size / plain:.1f} pictures a second"),
        ("our encode_image", f"{ours / plain:.3f} times the time"),
        ("a guarded call", f"{guarded / plain:.3f} times the time"),
    ]
    if rivals:
        for name, factor in _rivals(hooked, noise(rivals), noise(_CALIBRATION), rounds).items():
            metrics[f"rival-over-plain;rival={name}"] = factor
            rows.append((name, f"{factor:.1f} times the time"))
    if calls:
        sizes = _resident(calls, seed)
        metrics |= {f"resident-megabytes;after={after}": size for after, size in sizes.items()}
        _, first, *_, last = sizes.values()
        part = f"{first:.1f} MB after {list(sizes)[1]:,} of them, {last:.1f} MB at the end"
        rows.append((f"memory over {calls:,} calls", part))
    settings = {"model": model, "batch_size": batch_size, "rounds": rounds, "threads": torch.get_num_threads()}
    settings |= {"device": device, "rivals": rivals, "calls": calls}
    named = {f"synthetic/clean/guard/{key}": value for key, value in metrics.items()}
    results = Results("bench guard", "synthetic", seed, settings, {"images": batch_size}, named, clock())
    finish(results, out, as_json, rows)


def _rivals(model: HookedCLIP, images: Tensor, clean: Tensor, rounds: int) -> dict[str, float]:
    """Times of scoring pictures over the time of encoding them."""
    import torch

    from ..scale_up import ScaleUp
    from ..strip import STRIP
    from ..teco import TeCo

    names = [f"class {number}" for number in range(_CLASSES)]
    detectors = (STRIP(calibration=1), ScaleUp(calibration=2), TeCo(calibration=1))
    for each in detectors:
        each.fit(model, clean, class_names=names)
    with torch.no_grad():
        works = [lambda: model.clip.encode_image(images), *(lambda each=each: each.score(images) for each in detectors)]
        plain, *others = side_by_side(works, max(1, rounds // 3), warm=False)
    return {type(each).__name__: taken / plain for each, taken in zip(detectors, others, strict=True)}


def _resident(calls: int, seed: int) -> dict[int, float]:
    """Resident megabytes of this process as calls of a tiny model's guard go by, the first before any."""
    import psutil
    import torch
    from tqdm import tqdm

    from ..guard import Guard

    torch.set_num_threads(1)  # threads cost more than they bring on a model this small
    model = _tiny(seed)
    source, side = torch.Generator().manual_seed(seed), model.visual.image_size
    guard = Guard.calibrate(model, torch.randn(_CALIBRATION, 3, side, side, generator=source), mode="flag")
    process, sizes, image = psutil.Process(), {}, torch.randn(1, 3, side, side, generator=source)
    for call in tqdm(range(calls + 1), desc="calls", mininterval=5):
        if call % max(1, calls // _SAMPLES) == 0 or call == calls:
            sizes[call] = process.memory_info().rss / 1e6
        if call < calls:
            guard(image)
    return sizes


def _tiny(seed: int) -> HookedCLIP:
    """One block of two heads over four patches, with random weights."""
    from clip_decomp.model import HookedCLIP
    from clip_decomp.tokenizer import BPETokenizer
    from clip_decomp.training.architecture import Architecture, build

    texts = BPETokenizer.train(["a photo of a dog."], vocab_size=280, context_length=8)
    sizes = Architecture(16, 16, 8, 1, 16, 2, 8, texts.vocab_size, 1, 16, 2)
    return HookedCLIP(build(sizes, seed).eval().requires_grad_(False), texts, (0.5,) * 3, (0.25,) * 3)
