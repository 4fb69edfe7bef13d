"""The core's commands: evaluate, ablate, attack, train, zoo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..results import Results, prefix, scale_of
from .run import Attack, Clock, Data, Device, Images, Json, Model, Out, Seed, Target, finish, open_subject


def register(app: typer.Typer) -> None:
    """Add the core's commands."""
    app.command()(evaluate)
    app.command()(ablate)
    app.command()(attack)
    app.command()(train)
    from . import bench, reading, zoo
    from .inspect import inspect

    app.command()(inspect)
    reading.register(app)
    app.add_typer(zoo.app, name="zoo")
    app.add_typer(bench.app, name="bench")


def evaluate(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Clean accuracy, attack success rate and poisoned accuracy, without any defense."""
    from ..evaluation import evaluate as measure

    clock = Clock()
    subject = open_subject(model, data, attack, target, images, seed, device)
    test = subject.data.test
    found = measure(subject.model, test, subject.trigger, subject.target, progress=True)
    results = Results(
        "evaluate",
        scale_of(test.name),
        seed,
        subject.settings(),
        subject.counts(),
        found.metrics(prefix(test.name, subject.attack, "none")),
        clock(),
    )
    rows = [("model", subject.model.name), ("data", test.name), ("clean accuracy", str(found.clean_accuracy))]
    if found.attack_success_rate is not None:
        rows += [
            ("attack", f"{subject.attack}, target {subject.target}"),
            ("attack success rate", str(found.attack_success_rate)),
            ("poisoned accuracy", str(found.poisoned_accuracy)),
        ]
    finish(results, out, as_json, rows)


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


def attack(
    name: Annotated[str, typer.Argument(help="badnet, blended, kitty, reflection, sig or wanet.")],
    model: Model = "world/clean",
    data: Data = None,
    target: Target = None,
    rate: Annotated[float, typer.Option(help="Share of poisoned pairs among those seen.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Steps of fine-tuning.")] = 250,
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 96,
    lr: Annotated[float, typer.Option(help="Peak learning rate (AdamW).")] = 6e-4,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Implant a backdoor by poisoned fine-tuning, and measure whether it took."""
    from ..attacks.implant import AttackSettings, implant
    from ..attacks.triggers import make_trigger
    from ..data import open_data
    from ..errors import SettingError
    from ..evaluation import evaluate as measure
    from ..evaluation import require_attack
    from ..models.loading import load, load_folder, save_folder
    from ..training.streams import pair_stream
    from .run import check_device

    clock = Clock()
    trigger = make_trigger(name, seed=seed)
    clean = load(model, device=check_device(device))
    spec = data or clean.card.get("data")
    if spec is None or (data is None and scale_of(spec) != "world"):
        raise SettingError(f"{model}: say where its pictures are with --data (its card says {spec!r}).")
    size = clean.visual.image_size
    test = open_data(spec, size, seed).test
    goal = target or test.target
    if goal is None:
        raise SettingError(f"{test.name} has no target class: name one with --target.")
    test.class_index(goal)
    before = measure(clean, test)
    stream, names = pair_stream(spec, size, seed + 11, smallest_crop=0.7)
    settings = AttackSettings(rate, steps, batch_size, lr, seed)
    folder = out or Path("runs") / f"{scale_of(test.name)}-{name}"
    backdoored = implant(clean, stream, names, trigger, goal, settings, scale_of(test.name), folder / "training")
    save_folder(backdoored, folder, backdoored.card)
    found = measure(load_folder(folder), test, trigger, goal)
    metrics = found.metrics(prefix(test.name, name, "none"))
    metrics[f"{prefix(test.name, 'clean', 'none')}/ca"] = before.clean_accuracy.value
    counts = {"test": len(test), "classes": len(test.class_names), "skipped": len(test.skipped)}
    results = Results("attack", scale_of(test.name), seed, backdoored.card["attack"], counts, metrics, clock())
    rows = [
        ("model", str(folder)),
        ("clean accuracy before", str(before.clean_accuracy)),
        ("clean accuracy after", str(found.clean_accuracy)),
        ("attack success rate", str(found.attack_success_rate)),
        ("poisoned accuracy", str(found.poisoned_accuracy)),
    ]
    finish(results, folder, as_json, rows)
    require_attack(found)


def train(
    what: Annotated[str | None, typer.Argument(help="world, or a data set as --data.")] = None,
    data: Data = None,
    steps: Annotated[int | None, typer.Option(help="Steps; the recipe's by default.")] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a tiny CLIP from scratch on the embedded world or on labelled photographs. Interrupted runs resume."""
    from ..training.runs import train_model
    from .run import check_device

    clock = Clock()
    spec = data or what or "world"
    folder = out or Path("runs") / f"{scale_of(Path(spec).name)}-clean"
    model, metrics, counts = train_model(spec, folder, seed, steps, check_device(device))
    scale = scale_of(model.card["data"])
    results = Results("train", scale, seed, model.card["recipe"], counts, metrics, clock())
    rows = [("model", str(folder)), *((key, f"{value:.1%}") for key, value in metrics.items())]
    finish(results, folder, as_json, rows)
