"""The analyses' commands: ``clip-decomp demo | readout | factors | study | filtering | figures | audits | repelling
| adversarial | cams``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_decomp.cli.run import Device, Json, Seed

from . import cams, figures, filters, many, repelling, world


def register(app: typer.Typer) -> None:
    """Add the analyses' commands."""
    app.command()(demo)
    app.command()(world.readout)
    app.command()(world.factors)
    app.command()(many.study)
    app.command()(filters.filtering)
    app.command()(figures.figures)
    app.command()(repelling.repelling)
    app.command()(repelling.adversarial)
    app.command()(many.audits)
    app.command()(cams.cams)


def demo(
    model: Annotated[
        list[str] | None, typer.Option(help="Backdoored models; the zoo's two by default. May be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Where their pictures are; the cards' by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("runs/demo"),
    images: Annotated[int, typer.Option(min=1, help="Test images.")] = 1000,
    held_out: Annotated[int, typer.Option(min=40, help="Clean images for means, prototypes and thresholds.")] = 1000,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Read backdoored CLIPs, show what is infected, catch and repair triggered inputs, and write a report."""
    from ..demo import run

    run(tuple(model or ("world/badnet", "world/blended")), data, out, images, held_out, seed, device, as_json)
