"""``clip-decomp guard calibrate | serve``: a model that says of every image whether it behaves as clean ones do."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Clock, Device, Json, Model, Seed, finish
from clip_decomp.results import Results, prefix, scale_of

from .subjects import own_pictures

if TYPE_CHECKING:
    from clip_decomp.model import HookedCLIP


def calibrate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the guard and results.json.")],
    images: Annotated[
        str | None, typer.Option(help="Clean pictures: a folder, labelled or not, or data; the card's by default.")
    ] = None,
    count: Annotated[int | None, typer.Option(help="At most this many pictures; all by default.")] = None,
    false_positive_rate: Annotated[float, typer.Option(help="Share of clean images that may be flagged.")] = 0.05,
    mode: Annotated[str, typer.Option(help="What happens to flagged images: flag, reject or repair.")] = "reject",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Calibrate a guard on clean pictures, which need no labels."""
    from clip_decomp.cli.weights import open_model

    from ..conformal import false_positive_spread, p_values
    from ..guard import Guard

    clock, hooked = Clock(), open_model(model, device)
    data = own_pictures(hooked, images, count, seed)
    guard = Guard.calibrate(hooked, hooked.normalize(data.pixels), false_positive_rate, mode, seed)
    guard.save(out)
    reference = guard.reference
    mean, spread = false_positive_spread(len(reference), false_positive_rate)
    threshold = float(reference[p_values(reference, reference) > false_positive_rate][-1])
    settings = {"model": hooked.name, "images": data.name, "mode": mode, "false_positive_rate": false_positive_rate}
    settings |= {"threshold": threshold}
    counts: dict[str, Any] = {"images": len(data.pixels), "calibration": len(reference)}
    counts |= {"skipped": len(data.skipped), "skipped_images": list(data.skipped)}
    start = prefix(data.name, "clean", "guard")
    metrics = {f"{start}/false-positive-rate": mean, f"{start}/false-positive-rate/std": spread}
    results = Results("guard calibrate", scale_of(data.name), seed, settings, counts, metrics, clock())
    rows = [
        ("guard", f"{out}, mode {mode}"),
        ("images", f"{len(data.pixels)}, of which {len(reference)} set the threshold"),
        ("flagged", f"scores above {threshold:.3f}"),
        ("clean images flagged", f"{mean:.2%} expected, standard deviation {spread:.2%} over calibrations"),
    ]
    finish(results, out, as_json, rows)


def serve(
    model: Model,
    guard: Annotated[Path, typer.Option(help="Folder of a guard that was calibrated on the model.")],
    classes: Annotated[
        Path | None, typer.Option(help="Text file with a class name a line; those of the card's data by default.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Template of prompts, '{}' the class; the data's by default.")
    ] = None,
    top: Annotated[int, typer.Option(help="Classes an answer.")] = 5,
    host: Annotated[str, typer.Option(help="127.0.0.1 (this machine alone), 0.0.0.0 or ::.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="1024 to 65535.")] = 8000,
    workers: Annotated[int, typer.Option(help="Inference workers.")] = 1,
    http_processes: Annotated[int, typer.Option(help="Processes that speak HTTP and decode pictures.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images encoded together at most.")] = 16,
    batch_seconds: Annotated[float, typer.Option(min=0, help="How long an image waits for others.")] = 0.005,
    max_bytes: Annotated[int, typer.Option(help="Of a body.")] = 8 * 2**20,
    max_pixels: Annotated[int, typer.Option(help="Of a picture.")] = 25_000_000,
    header_timeout: Annotated[float, typer.Option(help="Seconds for headers to arrive.")] = 10.0,
    body_timeout: Annotated[float, typer.Option(help="Seconds for a body to arrive.")] = 10.0,
    timeout: Annotated[float, typer.Option(help="Seconds for a request as a whole.")] = 30.0,
    max_waiting: Annotated[int, typer.Option(help="Requests in work at once, of each HTTP process.")] = 64,
    device: Device = "cpu",
) -> None:
    """Serve a guarded model over HTTP: POST the bytes of an image to /predict."""
    from clip_decomp.cli.weights import open_model, said
    from clip_decomp.zeroshot import class_vectors

    from ..guard import Guard
    from ..serving.settings import Address, Limits, Served

    _require_extra()
    address = Address(host, port, http_processes)
    limits = Limits(max_bytes, max_pixels, header_timeout, body_timeout, timeout, max_waiting)
    hooked = open_model(model, device)
    Guard.load(guard, hooked)
    names, templates = class_texts(hooked, classes, template)
    class_vectors(hooked, names[:1], templates)
    served, size = Served(model, guard, names, templates, top, workers, asdict(said())), hooked.visual.image_size
    del hooked
    with TemporaryDirectory(prefix="clip-decomp-metrics-") as shared:
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", shared)  # read when prometheus_client is first imported
        from ..serving.api import GuardAPI
        from ..serving.server import make_server, run

        run(make_server(GuardAPI(served, batch_size, batch_seconds), size, limits, device), limits, address)


def _require_extra() -> None:
    from clip_decomp.errors import SettingError

    for name in ("litserve", "prometheus_client"):
        if find_spec(name) is None:
            raise SettingError(f"Serving needs {name}, which is not installed: pip install litserve prometheus-client.")


def class_texts(
    model: HookedCLIP, classes: Path | None, template: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Class names and templates: those that are given, or those of the data on the model's card.

    Raises:
        SettingError: no classes are given, and the card's data cannot be found from here.
    """
    from clip_decomp.data import open_data
    from clip_decomp.data.sets import PLAIN_TEMPLATE
    from clip_decomp.data.unlabelled import read_class_names
    from clip_decomp.errors import SettingError

    own, given = model.card.get("data"), None if template is None else (template,)
    if classes is not None:
        return read_class_names(classes), given or (PLAIN_TEMPLATE,)
    if own is None or scale_of(own) != "world":
        raise SettingError(f"{model.name}: name classes with --classes FILE (its card says {own!r}).")
    data = open_data(own, model.visual.image_size).test
    return data.class_names, given or data.templates
