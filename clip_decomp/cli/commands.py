"""The core's commands: evaluate, ablate, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..results import Results, prefix, scale_of
from .run import Attack, Clock, Data, Device, Images, Json, Model, Out, Seed, Target, Workers, finish, open_subject


def register(app: typer.Typer) -> None:
    """Add the core's commands."""
    app.command()(evaluate)
    app.command()(ablate)
    app.command()(train)
    from . import bench, reading, zoo
    from .attack import attack
    from .inspect import inspect
    from .stores import decompose

    app.command()(attack)
    app.command()(inspect)
    app.command()(decompose)
    reading.register(app)
    app.add_typer(zoo.app, name="zoo")
    app.add_typer(bench.app, name="bench")


def evaluate(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="A line for each class, with --out also in per_class.csv.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Clean accuracy, attack success rate and poisoned accuracy, without any defense."""
    from rich.markup import escape

    from ..evaluation import evaluate as measure
    from .per_class import show_classes, write_classes

    clock = Clock()
    subject = open_subject(model, data, attack, target, images, seed, device)
    test = subject.data.test
    found = measure(subject.model, test, subject.trigger, subject.target, progress=True, split="test")
    success = found.attack_success_rate
    results = Results(
        "evaluate",
        scale_of(test.name),
        seed,
        {**subject.settings(), "triggered_templates": list(found.triggered_templates), "measured": found.measured},
        {**subject.counts(), "clean": found.clean_accuracy.count, "triggered": success.count if success else 0},
        found.metrics(prefix(test.name, subject.attack, "none")),
        clock(),
    )
    rows = [("model", subject.model.name), ("data", test.name), ("clean accuracy", str(found.clean_accuracy))]
    if success is not None:
        rows += [
            ("attack", f"{subject.attack}, target {subject.target}"),
            ("attack success rate", str(success)),
            ("poisoned accuracy", str(found.poisoned_accuracy)),
        ]
    finish(results, out, as_json, rows, escape(found.measured))
    if per_class and out is not None:
        write_classes(found, out)
    if per_class and not as_json:
        show_classes(found)


def ablate(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    effect: Annotated[str, typer.Option(help="direct (edit the sum) or total (patch activations).")] = "direct",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Mean-ablation sweeps over heads, MLPs and layers: forward, backward and separate."""
    from ..ablation.sweeps import sweeps
    from ..errors import SettingError

    clock = Clock()
    subject = open_subject(model, data, attack, target, images, seed, device)
    if subject.trigger is None or subject.target is None:
        raise SettingError(f"{model} carries no attack on its card: name one with --attack.")
    if effect not in ("direct", "total"):
        raise SettingError(f"Effects are direct and total, not {effect!r}.")
    test = subject.data.test
    found = sweeps(subject.model, test, subject.data.held_out, subject.trigger, subject.target, effect, progress=True)
    metrics = {}
    for sweep in found:
        metrics.update(sweep.metrics(prefix(test.name, subject.attack, "none")))
    settings = {**subject.settings(), "effect": effect}
    results = Results("ablate", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    rows = [("", "ASR by layer, clean accuracy by layer")]
    for sweep in found:
        asr = " ".join(f"{100 * value:3.0f}" for value in sweep.attack_success_rate)
        accuracy = " ".join(f"{100 * value:3.0f}" for value in sweep.clean_accuracy)
        rows.append((f"{sweep.over}, {sweep.scheme}", f"{asr}   |   {accuracy}"))
    finish(results, out, as_json, rows)


def train(
    what: Annotated[str | None, typer.Argument(help="world, or a data set as --data.")] = None,
    data: Data = None,
    pairs: Annotated[
        str | None, typer.Option(help="Captioned files to train on: CSV, WebDataset shards or parquet.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps; the recipe's by default.")] = None,
    patch_dropout: Annotated[
        float | None, typer.Option(help="Share of patches left out in training; the recipe's by default.")
    ] = None,
    like: Annotated[
        str,
        typer.Option(
            help="The zoo's clean model to be like: world/clean, world-p16/clean, world-resnet/clean, or "
            "world-labels/clean, which learns from class names alone."
        ),
    ] = "world/clean",
    texts_of: Annotated[
        str | None, typer.Option(help="A trained model whose text tower is taken; only an image tower is trained.")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Train a tiny CLIP from scratch on the embedded world or on labelled photographs. Interrupted runs resume."""
    from ..training.runs import train_model
    from .run import check_device

    clock = Clock()
    spec = data or what or "world"
    folder = out or Path("runs") / f"{scale_of(Path(spec).name)}-clean"
    found = train_model(spec, folder, seed, steps, check_device(device), pairs, patch_dropout, workers, like, texts_of)
    if found is None:
        return
    model, metrics, counts = found
    scale = scale_of(model.card["data"])
    results = Results("train", scale, seed, model.card["recipe"], counts, metrics, clock())
    rows = [("model", str(folder)), *((key, f"{value:.1%}") for key, value in metrics.items())]
    finish(results, folder, as_json, rows)
