"""Speed of drawing the embedded world and of decomposing."""

from __future__ import annotations

from typing import Annotated

import typer

from ...results import Results
from ..run import Clock, Json, Model, Out, finish
from .timing import side_by_side

Rounds = Annotated[int, typer.Option(help="Repetitions; the median counts.")]


def generator(rounds: Rounds = 7, out: Out = None, as_json: Json = False) -> None:
    """Pictures a second that the embedded world is drawn at."""
    import torch

    from ...data.world.draw import draw
    from ...data.world.scenes import CLASSES, sample_scenes

    clock, source = Clock(), torch.Generator().manual_seed(0)
    count = 1024

    def work() -> None:
        for _ in range(count // 256):
            draw(sample_scenes(256, source, torch.arange(len(CLASSES))))

    (seconds,) = side_by_side([work], rounds)
    metrics = {"world/clean/none/pictures-per-second": count / seconds}
    settings = {"threads": torch.get_num_threads(), "rounds": rounds, "batch": 256}
    rows = [("pictures a second", f"{count / seconds:.0f} on {torch.get_num_threads()} threads")]
    finish(Results("bench generator", "world", 0, settings, {"images": count}, metrics, clock()), out, as_json, rows)


def decompose(
    model: Model = "world/clean",
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 32,
    rounds: Rounds = 7,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """A decomposition against plain encode_image of the original model."""
    import torch

    from ..weights import open_model

    clock, hooked = Clock(), open_model(model, "cpu")
    images = torch.rand(batch_size, 3, hooked.visual.image_size, hooked.visual.image_size)
    with torch.no_grad():
        plain, heads, tokens = side_by_side(
            [
                lambda: hooked.clip.encode_image(images),
                lambda: hooked.decompose(images).heads,
                lambda: hooked.decompose(images, tokens=True).tokens(-1, 0),
            ],
            rounds,
        )
    metrics = {"heads-over-plain": plain / heads, "tokens-over-plain": plain / tokens}
    rows = [
        ("encode_image", f"{batch_size / plain:.1f} images a second"),
        ("heads", f"{batch_size / heads:.1f} images a second, {plain / heads:.2f} of plain speed"),
        ("one head's tokens", f"{batch_size / tokens:.1f} images a second, {plain / tokens:.2f} of plain speed"),
    ]
    settings = {"model": model, "batch_size": batch_size, "rounds": rounds, "threads": torch.get_num_threads()}
    named = {f"world/clean/none/{key}": value for key, value in metrics.items()}
    finish(Results("bench decompose", "world", 0, settings, {}, named, clock()), out, as_json, rows)
