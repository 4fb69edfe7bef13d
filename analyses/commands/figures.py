"""``clip-decomp figures``: figures and tables of the papers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Device, Seed, check_device

if TYPE_CHECKING:
    from ..figures.runs import Run

_WORLD = "world"


def figures(
    name: Annotated[list[str] | None, typer.Argument(help="Figures or tables; all by default.")] = None,
    scale: Annotated[str, typer.Option(help="world, imagenet, or another with --models and --data.")] = _WORLD,
    models: Annotated[Path | None, typer.Option(help="Folder with one model an attack, named after it.")] = None,
    data: Annotated[str | None, typer.Option(help="Where the pictures are; the cards' by default.")] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(help="Another set of the papers: 'Caltech-101=caltech101=FOLDER', ImageNet-V2=...; repeated."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="At most this many test pictures of each model.")] = 400,
    held_out: Annotated[int, typer.Option(min=40, help="At most this many clean ones to fit to.")] = 400,
    plan: Annotated[bool, typer.Option("--plan", help="Only say which trainings are missing, and their time.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Only run the missing trainings; may be interrupted.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what the imagenet scale needs: data, models, hours.")
    ] = False,
    reproduction: Annotated[
        Path | None,
        typer.Option(help="Keep the results beside this Markdown file, and write the papers' numbers and ours to it."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; runs/figures/SCALE by default.")] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done, or is to be done, as JSON.")] = False,
) -> None:
    """Draw figures and tables of the papers, each into its folder; what is there with the same settings stays."""
    from rich.console import Console

    from clip_decomp.errors import SettingError

    from ..figures.bench import Bench
    from ..figures.catalog import ITEMS, chosen
    from ..figures.page import write
    from ..figures.reproduction import publish
    from ..figures.runs import run
    from ..figures.setting import Setting
    from ..figures.trainings import IMAGENET
    from ..figures.trainings import train as trained

    items, device = chosen(name or ()), check_device(device)
    if dry_run:
        if scale != IMAGENET:
            raise SettingError("--dry-run is about --scale imagenet; --plan says what is missing at the others.")
        from ..figures.dry_run import estimate

        _tell("dry_run", estimate(items, data, device), as_json)
        return
    if scale == IMAGENET and (models is None or data is None):
        raise SettingError("The imagenet scale needs --models and --data; --dry-run says which, and how long it takes.")
    if scale != _WORLD and models is None:
        raise SettingError(f"The zoo has no models of scale {scale!r}: name a folder with one an attack with --models.")
    if reproduction is not None:
        if reproduction.suffix != ".md":
            raise SettingError(f"--reproduction {reproduction}: it writes a Markdown file, whose name ends in .md.")
        if not reproduction.absolute().parent.is_dir():
            raise SettingError(f"--reproduction {reproduction}: there is no folder {reproduction.parent} to write to.")
    folder = out or Path("runs/figures") / scale
    setting = Setting(scale, models, data, images, held_out, seed, device, _others(other or (), scale))
    bench = Bench(setting, folder / "measured")
    if plan or train:
        lines = trained(items, bench, folder / "locks") if train else _plan(items, bench)
        _tell("trained" if train else "plan", lines, as_json)
        return
    console, runs = Console(soft_wrap=True, quiet=as_json), []
    for each in run(items, setting, folder):
        runs.append(each)
        console.print("\n  ".join(_told(each)), highlight=False, markup=False)
    files = [write(ITEMS, runs, folder)]
    if reproduction is not None:
        publish(ITEMS, runs, scale, reproduction)
        files.append(reproduction)
    console.print("\n".join(map(str, files)), highlight=False)
    if as_json:
        _print_json({"scale": scale, "items": [_done(each) for each in runs], "files": list(map(str, files))})


def _others(given: Iterable[str], scale: str) -> tuple[tuple[str, str], ...]:
    """Names and descriptions of further sets."""
    from clip_decomp.errors import SettingError, nearest

    from ..figures.setting import PAIRS, WORLD_SETS

    known, found = [*WORLD_SETS, PAIRS], []
    for each in given:
        name, _, spec = each.partition("=")
        if scale == _WORLD:
            raise SettingError(f"--other {each}: the world has all sets; this is for other scales.")
        if name not in known or not spec:
            raise SettingError(
                f"--other takes SET=DATA with one of the papers' sets, not {each!r}; did you mean one of "
                f"{nearest(name, known)}?"
            )
        found.append((name, spec))
    return tuple(found)


def _tell(what: str, lines: Iterable[str], as_json: bool) -> None:
    """Print lines as they come, or all of them as JSON."""
    from rich.console import Console

    if as_json:
        _print_json({what: list(lines)})
        return
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _print_json(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def _done(each: Run) -> dict[str, Any]:
    """A figure, whether it is there, and what it decided."""
    from ..figures.runs import settings_of

    claims = (settings_of(each.folder) or {}).get("verdicts", []) if each.state != "left out" else []
    return {"name": each.item.name, "state": each.state, "left_out": each.left_out, "claims": claims}


def _told(each: Run) -> list[str]:
    """What became of a figure, what it decided and what it went without."""
    from ..figures.items import Verdict

    found = _done(each)
    decided = [Verdict(**claim).sentence for claim in found["claims"]]
    return [
        f"{each.item.name}: {each.state}",
        *decided,
        *(f"without {name}: {why}" for name, why in each.left_out.items()),
    ]


def _plan(items, bench) -> list[str]:
    """What can be drawn, and the trainings that are missing, each once, with the figures that wait for it."""
    from ..figures.trainings import missing, models_of, trainings_of

    lines = []
    for item in items:
        left = [model for model in models_of(item) if bench.setting.missing(model) is not None]
        known = sum(bench.known(each) is not None for each in trainings_of(item))
        done = f", {known} of {len(trainings_of(item))} trainings" if trainings_of(item) else ""
        have = [attack for attack in item.attacks if attack not in left]
        lines.append(f"{item.name} ({item.source}): {', '.join(have) or 'nothing yet'}{done}")
    found = missing(items, bench)
    if found:
        hours = sum(each.minutes for each in found) / 60
        lines.append(f"Missing: {len(found)} trainings, about {hours:.1f} hours of one core (--train runs them):")
        for each in found:
            how = f": {each.how}" if each.how else ""
            lines.append(f"  {each.minutes:6.1f} min  {each.what}{how}  [{', '.join(each.items)}]")
        lines.append("Trainings on a model that is missing itself are counted once it is there.")
    return lines
