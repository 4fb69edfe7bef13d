"""Speed of drawing the embedded world."""

from __future__ import annotations

from typing import Annotated

import typer

from ...results import Results
from ..run import Clock, Json, Out, finish
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
