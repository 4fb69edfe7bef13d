"""``clip-decomp figures``: figures and tables of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_decomp.cli.run import Device, Seed, check_device

#: Training a zoo entry, from the measured builds of docs/reproduction.md.
_MINUTES = "4 minutes on two cores that know bfloat16, 15 on one that does not"


def figures(
    name: Annotated[list[str] | None, typer.Argument(help="Figures or tables; all by default.")] = None,
    scale: Annotated[str, typer.Option(help="world, or the name of another scale with --models and --data.")] = "world",
    models: Annotated[Path | None, typer.Option(help="Folder with one model an attack, named after it.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the pictures are; the cards' by default.")] = None,
    images: Annotated[int, typer.Option(min=1, help="At most this many test pictures of each model.")] = 400,
    held_out: Annotated[int, typer.Option(min=40, help="At most this many clean ones to fit to.")] = 400,
    plan: Annotated[bool, typer.Option("--plan", help="Only say which trainings are missing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; runs/figures/SCALE by default.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
) -> None:
    """Draw figures and tables of the papers, each into its folder; what is there with the same settings stays."""
    from rich.console import Console

    from clip_decomp.errors import SettingError

    from ..figures.bench import Setting
    from ..figures.catalog import ITEMS, chosen
    from ..figures.page import write
    from ..figures.runs import run

    items = chosen(name or ())
    if scale != "world" and models is None:
        raise SettingError(f"The zoo has no models of scale {scale!r}: name a folder with one an attack with --models.")
    folder = out or Path("runs/figures") / scale
    setting = Setting(scale, models, data, images, held_out, seed, check_device(device))
    console = Console()
    if plan:
        for line in _plan(items, setting):
            console.print(line, highlight=False)
        return
    runs = []
    for each in run(items, setting, folder):
        runs.append(each)
        left = f"; without {', '.join(each.left_out)}" if each.left_out else ""
        console.print(f"{each.item.name}: {each.state}{left}", highlight=False)
    console.print(f"{write(ITEMS, runs, folder)}", highlight=False)


def _plan(items, setting) -> list[str]:
    """What can be drawn, and the trainings that are missing, each once."""
    lines, missing = [], {}
    for item in items:
        left = {attack: how for attack in item.attacks if (how := setting.missing(attack)) is not None}
        missing |= left
        have = [attack for attack in item.attacks if attack not in left]
        lines.append(f"{item.name} ({item.source}): {', '.join(have) or 'nothing yet'}")
    if missing:
        lines.append(f"Missing, {len(missing)} trainings ({_MINUTES} each):")
        lines += [f"  {how}" for how in missing.values()]
    return lines
