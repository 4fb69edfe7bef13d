"""RVPT and VPT on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Target, finish
from clip_decomp.results import Results, prefix, scale_of

from .subjects import attacked, compared

TuneOn = Annotated[
    str | None, typer.Option(help="Data whose training pictures are tuned on; the test data's by default.")
]
Shots = Annotated[int, typer.Option(help="Training pictures a class.")]
Length = Annotated[int, typer.Option(help="Prompts a block.")]
Depth = Annotated[int | None, typer.Option(help="Prompted blocks; all but the first quarter by default.")]
CountFrom = Annotated[str, typer.Option(help="Count prompted blocks from the output or from the input.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training pictures.")]
BatchSize = Annotated[int, typer.Option(help="Pictures a step.")]
Rate = Annotated[float, typer.Option("--lr", help="Learning rate of SGD, for losses summed over the batch.")]
Template = Annotated[str | None, typer.Option(help="Template of all prompts, '{}' the class; the data's by default.")]
Without = Annotated[bool, typer.Option("--without-target", help="Leave the target class out of tuning (woTC).")]


def rvpt(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    alpha: Annotated[float, typer.Option(help="Weight of the feature-repelling loss.")] = 2.0,
    margin: Annotated[float, typer.Option(help="Mean cosine below which nothing is repelled.")] = -1.0,
    shots: Shots = 16,
    length: Length = 50,
    depth: Depth = None,
    count_from: CountFrom = "output",
    epochs: Epochs = 50,
    batch_size: BatchSize = 32,
    lr: Rate = 0.002,
    template: Template = None,
    without_target: Without = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """RVPT: tune visual prompts on a few clean pictures to keep the classes apart and repel everything else."""
    settings = {"alpha": alpha, "margin": margin, "shots": shots, "length": length, "depth": depth}
    settings |= {"count_from": count_from, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    subject = (model, data, attack, target, images, seed, device)
    _tuned("rvpt", settings, subject, tune_on, template, without_target, out, force, as_json)


def vpt(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    shots: Shots = 16,
    length: Length = 50,
    depth: Depth = None,
    count_from: CountFrom = "output",
    epochs: Epochs = 50,
    batch_size: BatchSize = 32,
    lr: Rate = 0.002,
    template: Template = None,
    without_target: Without = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """VPT: the same prompts, tuned to keep the classes apart alone (RVPT with alpha 0)."""
    settings = {"alpha": 0.0, "shots": shots, "length": length, "depth": depth}
    settings |= {"count_from": count_from, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    subject = (model, data, attack, target, images, seed, device)
    _tuned("vpt", settings, subject, tune_on, template, without_target, out, force, as_json)


def _tuned(
    name: str,
    settings: dict[str, Any],
    subject_of: tuple[Any, ...],
    tune_on: str | None,
    template: str | None,
    without_target: bool,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    from dataclasses import replace

    from clip_decomp.data import open_data
    from clip_decomp.errors import DataError
    from clip_decomp.evaluation import evaluate, require_attack

    from ..few_shot import WORLD_PICTURES
    from ..rvpt import RVPT

    clock, seed = Clock(), subject_of[5]
    # Complains before anything is loaded; an interrupted run with the same folder goes on.
    defense = RVPT(**settings, seed=seed, checkpoint=None if out is None else out / "tuning")
    subject = attacked(*subject_of)
    test, target = subject.data.test, subject.target
    where = tune_on or subject_of[1] or subject.model.card.get("data")
    opened = open_data(where, subject.model.visual.image_size, seed, train=WORLD_PICTURES)
    if opened.train is None:
        raise DataError(f"{where} has no training pictures to tune prompts on: name others with --tune-on.")
    train = opened.train
    if template is not None:
        test, train = replace(test, templates=(template,)), replace(train, templates=(template,))
    before = evaluate(subject.model, test, subject.trigger, target, progress=True)
    if not force:
        require_attack(before)
    start = clock()
    without = (target,) if without_target and target is not None else ()
    defense.fit(subject.model, train, without=without)
    tuning = clock() - start
    after = evaluate(defense, test, subject.trigger, target, progress=True)
    if out is not None:
        defense.save(out / "prompts")
    metrics = before.metrics(prefix(test.name, subject.attack, "none"))
    metrics |= after.metrics(prefix(test.name, subject.attack, name))
    described = {**subject.settings(), "templates": list(test.templates), "tuned_on": train.name, "without": without}
    described |= defense.settings() | {"blocks": defense.prompts_.blocks, "tuning_seconds": round(tuning, 1)}
    described["parameters"] = defense.prompts_.count
    counts = {**subject.counts(), "tuned": len(defense.chosen_)}
    results = Results(f"defend {name}", scale_of(test.name), seed, described, counts, metrics, clock())
    rows = compared(before, after)
    last = defense.history_[-1]
    rows += [
        ("tuned", f"{len(defense.chosen_)} pictures, {defense.prompts_.count:,} parameters, {tuning:.0f} s"),
        ("cosine with the original class tokens", f"{defense.history_[0]['cosine']:.3f}  ->  {last['cosine']:.3f}"),
    ]
    finish(results, out, as_json, rows)
