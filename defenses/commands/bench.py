"""Speed of the defenses in one run: RVPT against the published algorithm, and what a step of CBPT costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from clip_decomp.cli.bench.timing import alone, forget_peak, held_memory, peak_memory, side_by_side, waited
from clip_decomp.cli.run import Clock, Device, Json, Out, Seed, check_device, finish
from clip_decomp.results import Results

if TYPE_CHECKING:
    from clip_decomp.model import HookedCLIP

#: Of ViT-B/32's pictures.
_SIDE = 224


def rvpt(
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Prompts a block.")] = 50,
    depth: Annotated[int, typer.Option(min=1, max=12, help="Prompted blocks of 12.")] = 9,
    classes: Annotated[int, typer.Option(min=2, help="Classes.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")] = 5,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """A training step of RVPT against two full passes, ViT-B/32 sizes, random weights, fp32."""
    import torch
    from torch.nn import functional

    from clip_decomp.model import HookedCLIP
    from clip_decomp.training.architecture import Architecture, build

    from ..prefix import Prefix
    from ..published import published_rvpt_loss
    from ..rvpt import RVPT

    where, clock, source = check_device(device), Clock(), torch.Generator().manual_seed(seed)
    sizes = Architecture(embed_dim=512, image_size=224, patch_size=32, layers=12, width=768, heads=12)
    clip = build(sizes, seed).eval().requires_grad_(False)
    model = HookedCLIP(clip, lambda texts: torch.zeros(len(texts), 8, dtype=torch.long), (0,) * 3, (1,) * 3).to(where)
    images = torch.randn(batch_size, 3, 224, 224, generator=source).to(where)
    labels = torch.randint(classes, (batch_size,), generator=source).to(where)
    vectors = functional.normalize(torch.randn(classes, 512, generator=source), dim=-1).to(where)
    defense = RVPT(length=length, depth=depth, bf16=False, progress=False)
    prompts = defense.prepare(model)
    prefix = Prefix.of(model.visual, images, prompts.blocks[0])
    losses: dict[str, float] = {}

    def step(name: str) -> None:
        prompts.zero_grad()
        if name == "published":
            loss = published_rvpt_loss(model, prompts, images, labels, vectors, defense.alpha)
        else:
            kept = prefix.residual.to(where), prefix.targets.to(where)
            loss = defense.losses(*kept, labels, vectors).total(defense.alpha)
        loss.backward()
        losses[name] = loss.item()

    forget_peak(where)
    start = peak_memory(where)
    step("ours")
    middle = peak_memory(where)  # the peak only rises, so the work that needs less goes first
    step("published")
    extra = [max(0.0, (each - start) / 1e6) for each in (middle, peak_memory(where))]
    plain, ours, once = side_by_side(
        [
            lambda: step("published"),
            lambda: step("ours"),
            lambda: Prefix.of(model.visual, images, prompts.blocks[0]),
        ],
        rounds,
    )
    gap = abs(losses["ours"] - losses["published"]) / abs(losses["published"])
    metrics = {"rvpt-step-speedup": plain / ours, "rvpt-relative-loss-gap": gap}
    metrics |= {"rvpt-step-megabytes": extra[0], "rvpt-step-megabytes;of=published": extra[1]}
    rows = [
        ("two full passes", f"{plain * 1e3:.0f} ms a step"),
        ("from the kept prefix", f"{ours * 1e3:.0f} ms a step: {plain / ours:.2f} times as fast"),
        ("the prefix, once a picture", f"{once * 1e3:.0f} ms a batch"),
        ("memory beyond weights and prefix", f"{extra[0]:.0f} MB; two full passes at least {extra[1]:.0f} MB"),
        ("losses", f"{losses['published']:.5f} and {losses['ours']:.5f}, {gap:.1e} apart"),
    ]
    settings = {"batch_size": batch_size, "length": length, "blocks": prompts.blocks, "classes": classes}
    settings |= {"rounds": rounds, "threads": torch.get_num_threads(), "device": where}
    named = {f"synthetic/clean/none/{key}": value for key, value in metrics.items()}
    finish(
        Results("bench rvpt", "synthetic", seed, settings, {"images": batch_size}, named, clock()), out, as_json, rows
    )


def cbpt(
    classes: Annotated[list[int] | None, typer.Option(min=2, help="Classes; 40, 100 and 1,000 by default.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Of the inner loop.")] = 10,
    shots: Annotated[int, typer.Option(min=1, help="Pictures a class of the tuning that is timed.")] = 2,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """What a step of CBPT costs, ViT-B/32 sizes, random weights: the classes' texts and the inner loop, apart; and what
    a tuning of world/badnet takes with noise that is computed once a class and in every epoch.
    """
    import torch

    where, clock, metrics = check_device(device), Clock(), {}
    rows = [("", "seconds; memory beyond weights")]

    def note(what: str, part: str, key: str, seconds: float, bytes_: float) -> None:
        rows.append((what, f"{seconds:.2f} s; {bytes_ / 1e6:.0f} MB"))
        metrics[f"{part}-seconds{key}"], metrics[f"{part}-megabytes{key}"] = seconds, bytes_ / 1e6

    for count in classes or [40, 100, 1000]:
        for recompute in (0, 1):
            how = "recomputed" if recompute else "kept"
            key = f";classes={count};activations={how}"
            note(
                f"texts of {count} classes, activations {how}",
                "synthetic/clean/none/cbpt-texts",
                key,
                *alone(_texts, count, recompute, seed, where),
            )
    inner = "synthetic/clean/none/cbpt-inner"
    note(f"inner loop of {batch_size} pictures", inner, "", *alone(_inner, batch_size, steps, seed, where))
    tunings = {how: alone(_tuning, keep, shots, steps, seed, where) for how, keep in (("kept", True), ("anew", False))}
    for how, measured in tunings.items():
        what = f"tuning of world/badnet, {shots} shots, noise {how}"
        note(what, "world/badnet/cbpt/tuning", f";noise={how}", *measured)
    ratio = tunings["anew"][0] / tunings["kept"][0]
    metrics["world/badnet/cbpt/tuning-speedup"] = ratio
    rows.append(("noise anew, over kept", f"{ratio:.2f} times the time"))
    settings = {"batch_size": batch_size, "steps": steps, "shots": shots}
    settings |= {"threads": torch.get_num_threads(), "device": where}
    results = Results("bench cbpt", "synthetic", seed, settings, {"images": batch_size}, metrics, clock())
    finish(results, out, as_json, rows)


def _model(seed: int, device: str) -> HookedCLIP:
    """ViT-B/32 with random weights."""
    import logging

    import torch
    from open_clip import create_model, get_tokenizer

    from clip_decomp.model import HookedCLIP

    logging.disable(logging.WARNING)  # that no weights were loaded
    torch.manual_seed(seed)  # in a process of its own
    clip = create_model("ViT-B-32").eval().requires_grad_(False)
    return HookedCLIP(clip, get_tokenizer("ViT-B-32"), (0.5,) * 3, (0.25,) * 3).to(device)


def _texts(classes: int, recompute: int, seed: int, device: str) -> tuple[float, float]:
    """Seconds and bytes of all classes' vectors and their gradients."""
    from clip_decomp.prompts.classwise import ClassPrompts

    prompts = ClassPrompts(_model(seed, device), [f"class {k}" for k in range(classes)], seed=seed)
    _warm_up(device, lambda: prompts.vectors(recompute=bool(recompute)).square().sum().backward())
    prompts.zero_grad(set_to_none=True)
    start, clock = held_memory(device), Clock()
    prompts.vectors(recompute=bool(recompute)).square().sum().backward()
    return _until_done(clock, device), max(0.0, peak_memory(device) - start)


def _inner(batch_size: int, steps: int, seed: int, device: str) -> tuple[float, float]:
    """Seconds and bytes of inverting a batch's triggers."""
    import torch
    from torch.nn import functional

    from ..inversion import Inversion, invert_trigger

    model, source = _model(seed, device), torch.Generator().manual_seed(seed)
    images = model.normalize(torch.rand(batch_size, 3, _SIDE, _SIDE, generator=source).to(device))
    positive = functional.normalize(torch.randn(batch_size, model.visual.d_embed, generator=source), dim=-1).to(device)
    _warm_up(device, lambda: invert_trigger(model, images, positive, Inversion(steps=1)))
    start, clock = held_memory(device), Clock()
    invert_trigger(model, images, positive, Inversion(steps=steps))
    return _until_done(clock, device), max(0.0, peak_memory(device) - start)


def _tuning(keep: bool, shots: int, steps: int, seed: int, device: str) -> tuple[float, float]:
    """Seconds and bytes of CBPT with the world's settings."""
    from clip_decomp.models.loading import load

    from ..cbpt import CBPT
    from ..few_shot import training_pictures
    from ..inversion import Inversion

    model, train = load("world/badnet", device=device), training_pictures("world", 64, seed, shots)
    start, clock = held_memory(device), Clock()
    settings = {"epochs": 10, "warmup": 2, "lr": 0.02, "inversion": Inversion(steps, budget=0.7), "progress": False}
    CBPT(shots=shots, keep_noise=keep, seed=seed, **settings).fit(model, train)
    return _until_done(clock, device), max(0.0, peak_memory(device) - start)


def _warm_up(device: str, work: Callable[[], object]) -> None:
    """A GPU's first work takes seconds to set up; on a CPU memory that was once taken would hide the peak."""
    if device != "cpu":
        work()
        waited(device)
        forget_peak(device)


def _until_done(clock: Clock, device: str) -> float:
    """Seconds, when the device is done."""
    waited(device)
    return clock()
