"""The reading methods against the published algorithms, in one run."""

from __future__ import annotations

from typing import Annotated

import typer

from ...results import Results
from ..run import Clock, Json, Out, Seed, finish
from .timing import peak_memory, side_by_side

Images = Annotated[int, typer.Option(min=2, help="Images, made up.")]
Width = Annotated[int, typer.Option(min=1, help="Dimensions of the joint space.")]
Rounds = Annotated[int, typer.Option(min=1, help="Repetitions; the median counts.")]


def textspan(
    images: Images = 10_000,
    width: Width = 512,
    d_head: Annotated[int, typer.Option(help="Dimensions of a head.")] = 64,
    candidates: Annotated[int, typer.Option(help="Candidate texts.")] = 3498,
    n_texts: Annotated[int, typer.Option(help="Texts to choose.")] = 20,
    rounds: Rounds = 3,
    out: Out = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """TEXTSPAN of a plain array, of a head and of streamed statistics against the published algorithm."""
    import torch

    from ...methods.textspan import textspan as explain
    from ...moments import Moments
    from .published import published_textspan

    clock, generator = Clock(), torch.Generator().manual_seed(seed)
    fading = torch.linspace(0, -2, width).exp()
    data = torch.randn(images, width, generator=generator) * fading + 0.1
    texts = torch.nn.functional.normalize(torch.randn(candidates, width, generator=generator), dim=-1)
    basis = torch.linalg.qr(torch.randn(width, d_head, generator=generator)).Q.T.contiguous()
    coordinates = torch.randn(images, d_head, generator=generator) * fading[:d_head] + 0.1
    head, streamed = coordinates @ basis, Moments.of(coordinates, basis)
    works = (
        lambda: published_textspan(data, texts, n_texts, 80),
        lambda: explain(data, texts, n_texts, 80),
        lambda: published_textspan(head, texts, n_texts, d_head),
        lambda: explain(Moments.of(coordinates, basis), texts, n_texts, 80),
        lambda: explain(streamed, texts, n_texts, 80),
    )
    same = []
    for published, ours in ((works[0], works[1]), (works[2], works[4])):
        chosen = ours().indices.tolist()
        # Beyond the rank of the data the published algorithm goes on with null directions.
        same.append(published()[0][: len(chosen)] == chosen)
    plain, ours, plain_head, ours_head, ours_streamed = side_by_side(works, rounds, warm=False)
    metrics = {
        "textspan-speedup;of=array": plain / ours,
        "textspan-speedup;of=head": plain_head / ours_head,
        "textspan-speedup;of=statistics": plain_head / ours_streamed,
        "textspan-same-choices;of=array": float(same[0]),
        "textspan-same-choices;of=head": float(same[1]),
    }
    rows = [
        ("published, array", f"{plain:.2f} s"),
        ("array", f"{ours * 1e3:.1f} ms: {plain / ours:.0f} times as fast, {_same(same[0])}"),
        ("published, head", f"{plain_head:.2f} s"),
        ("head, with its moments", f"{ours_head * 1e3:.1f} ms: {plain_head / ours_head:.0f} times as fast"),
        (
            "head, moments at hand",
            f"{ours_streamed * 1e3:.1f} ms: {plain_head / ours_streamed:.0f} times as fast, {_same(same[1])}",
        ),
    ]
    settings = {"width": width, "d_head": d_head, "candidates": candidates, "n_texts": n_texts, "rounds": rounds}
    settings["threads"] = torch.get_num_threads()
    named = {f"synthetic/clean/none/{key}": value for key, value in metrics.items()}
    finish(
        Results("bench textspan", "synthetic", seed, settings, {"images": images}, named, clock()), out, as_json, rows
    )


def ablation(
    images: Images = 10_000,
    width: Width = 512,
    layers: Annotated[int, typer.Option(help="Layers.")] = 12,
    heads: Annotated[int, typer.Option(help="Heads a layer.")] = 12,
    d_head: Annotated[int, typer.Option(help="Dimensions of a head.")] = 64,
    classes: Annotated[int, typer.Option(help="Classes.")] = 100,
    looped_images: Annotated[int, typer.Option(help="Images that the loop is timed on; it is linear in them.")] = 1000,
    out: Out = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """All sweeps over cached decompositions of ViT-B/32's size against one configuration after another."""
    import torch

    from ...ablation import direct_sweeps
    from ...contributions import Contributions
    from .published import looped_sweeps

    clock, generator = Clock(), torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(layers, heads, width, d_head, generator=generator)).Q.mT.contiguous()

    def made_up() -> Contributions:
        shape = (images, layers, heads, d_head)
        return Contributions(
            torch.randn(shape, generator=generator),
            basis,
            torch.randn(images, layers, width, generator=generator),
            torch.randn(images, width, generator=generator),
            torch.zeros(images, width),
            torch.arange(images) % classes,
        )

    clean, triggered = made_up(), made_up()
    means, vectors = clean.means(), torch.randn(classes, width, generator=generator)
    few = (clean[:looped_images], triggered[:looped_images], means, vectors, 0)
    found = [
        pair
        for sweep in direct_sweeps(*few)
        for pair in zip(sweep.clean_accuracy, sweep.attack_success_rate, strict=True)
    ]
    looped: list = []
    (loop,) = side_by_side([lambda: looped.append(looped_sweeps(*few))], 1, warm=False)
    (ours,) = side_by_side([lambda: direct_sweeps(clean, triggered, means, vectors, 0)], 3)
    (ours_few,) = side_by_side([lambda: direct_sweeps(*few)], 3)
    apart = (torch.tensor(found) - torch.tensor(looped[0])).abs().max().item()
    metrics = {"sweep-speedup": loop / ours_few, "sweep-difference": apart}
    rows = [
        (f"loop, {looped_images} images", f"{loop:.2f} s"),
        (f"ours, {looped_images} images", f"{ours_few:.3f} s: {loop / ours_few:.0f} times as fast"),
        (f"ours, {images} images", f"{ours:.2f} s"),
        ("largest difference", f"{100 * apart:.2f} points"),
    ]
    settings = {"layers": layers, "heads": heads, "d_head": d_head, "width": width, "classes": classes}
    settings["threads"] = torch.get_num_threads()
    named = {f"synthetic/clean/none/{key}": value for key, value in metrics.items()}
    counts = {"images": images, "looped": looped_images}
    finish(Results("bench ablation", "synthetic", seed, settings, counts, named, clock()), out, as_json, rows)


def mmd(
    images: Annotated[int, typer.Option(min=2, help="Images a side, made up.")] = 5000,
    width: Width = 512,
    heads: Annotated[int, typer.Option(help="Heads.")] = 144,
    d_head: Annotated[int, typer.Option(help="Dimensions of a head; 0 measures in the joint space.")] = 64,
    permutations: Annotated[int, typer.Option(help="Permutations of the test; 0 for none.")] = 0,
    out: Out = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """MMD of every head, clean against triggered: seconds, and peak memory beyond the inputs."""
    import torch

    from ...methods.mmd import component_mmd

    clock, generator = Clock(), torch.Generator().manual_seed(seed)
    size = d_head or width
    # In place: what making the inputs takes for a moment would hide what the method takes.
    sides = [torch.randn(images, heads, size, generator=generator).div_(width) for _ in range(2)]
    before = peak_memory()
    (seconds,) = side_by_side([lambda: component_mmd(*sides, permutations=permutations)], 1, warm=False)
    extra = (peak_memory() - before) / 1e6
    metrics = {"mmd-seconds": seconds, "mmd-extra-megabytes": extra}
    rows = [
        ("seconds", f"{seconds:.1f} for {heads} heads, {images} against {images} images, {size} dimensions"),
        ("extra memory", f"{extra:.0f} MB at the peak"),
    ]
    settings = {"heads": heads, "dimensions": size, "permutations": permutations, "threads": torch.get_num_threads()}
    named = {f"synthetic/clean/none/{key}": value for key, value in metrics.items()}
    finish(Results("bench mmd", "synthetic", seed, settings, {"images": images}, named, clock()), out, as_json, rows)


def _same(same: bool) -> str:
    return "same choices" if same else "OTHER CHOICES"
