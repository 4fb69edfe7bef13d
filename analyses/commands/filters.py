"""``clip-decomp filtering``: every detector and every repair on the same pictures of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clip_decomp.cli.run import Clock, Device, Json, Seed, check_device, finish
from clip_decomp.results import Results, scale_of

#: Columns of the table: measures, and what they are called.
_COLUMNS = {
    "auroc": "AUROC",
    "auroc-target": "AUROC, target class",
    "asr": "ASR",
    "ca": "clean accuracy",
    "pa": "poisoned accuracy",
    "flagged-clean": "flagged, clean",
    "flagged-triggered": "flagged, triggered",
    "epsilon": "epsilon",
    "seconds-per-image": "seconds an image",
}


def filtering(
    model: Annotated[list[str], typer.Option(help="Backdoored models. May be repeated.")],
    data: Annotated[str | None, typer.Option(help="Where the pictures are; the cards' by default.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Test pictures of each model, the same for all defenses.")] = 400,
    calibration: Annotated[int, typer.Option(min=40, help="Held-out pictures to fit to, at most.")] = 400,
    without: Annotated[
        list[str] | None, typer.Option(help="A defense to leave out, e.g. teco, which is slow. May be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json, table.csv and parts.")] = Path("runs/filtering"),
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Detectors, repairs and the guard on several models, on the same pictures; an interrupted run goes on."""
    from ..filtering import measurements, metrics, run

    clock, device = Clock(), check_device(device)
    measurements(without or ())  # complains before hours are spent
    parts: list[dict[str, Any]] = []
    for part in run(model, data, out, images, calibration, seed, device, without or ()):
        parts.append(part)
        _write_table(parts, out / "table.csv")
    settings = {"models": model, "data": data, "images": images, "calibration": calibration, "without": without or []}
    settings["not_taken"] = [each for each in model if sum(part["model"] == each for part in parts) == 1]
    counts = {"parts": len(parts), **parts[0]["counts"]}
    results = Results("filtering", scale_of(parts[0]["data"]), seed, settings, counts, metrics(parts), clock())
    finish(results, out, as_json, rows(parts))


def rows(parts: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Lines of a table."""
    lines = []
    for each in parts:
        shown = [f"{_COLUMNS[key]} {_told(key, value)}" for key, value in each["numbers"].items() if key in _COLUMNS]
        lines.append((f"{each['model']}, {each['name'].replace(';', ', ').replace('=', ' ')}", "; ".join(shown)))
    return lines


def _told(measure: str, value: float) -> str:
    if measure == "seconds-per-image":
        return f"{value:.4f}"
    return f"{value:.4g}" if measure == "epsilon" else f"{value:.3f}"


def _write_table(parts: Sequence[dict[str, Any]], file: Path) -> None:
    import csv

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "attack", "data", "defense", *_COLUMNS.values(), "seconds"])
        for each in parts:
            numbers = [each["numbers"].get(key, "") for key in _COLUMNS]
            writer.writerow([each["model"], each["attack"], each["data"], each["name"], *numbers, each["seconds"]])
