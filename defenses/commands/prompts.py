"""Tuned prompts on the command line: RVPT, VPT and CBPT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Target, finish
from clip_decomp.results import Results, prefix, scale_of

from .subjects import attacked, compared

if TYPE_CHECKING:
    from ..cbpt import CBPT
    from ..rvpt import RVPT

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
    from ..rvpt import RVPT

    settings = {"alpha": alpha, "margin": margin, "shots": shots, "length": length, "depth": depth}
    settings |= {"count_from": count_from, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    defense = RVPT(**settings, seed=seed, checkpoint=_checkpoint(out))
    subject = (model, data, attack, target, images, seed, device)
    _tuned("rvpt", defense, subject, tune_on, template, without_target, out, force, as_json)


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
    from ..rvpt import RVPT

    settings = {"alpha": 0.0, "shots": shots, "length": length, "depth": depth}
    settings |= {"count_from": count_from, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    defense = RVPT(**settings, seed=seed, checkpoint=_checkpoint(out))
    subject = (model, data, attack, target, images, seed, device)
    _tuned("vpt", defense, subject, tune_on, template, without_target, out, force, as_json)


def cbpt(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    shots: Shots = 16,
    length: Annotated[int, typer.Option(help="Context tokens a class.")] = 4,
    position: Annotated[str, typer.Option(help="Where the class's name stands: front, middle or end.")] = "end",
    shared: Annotated[bool, typer.Option("--shared", help="One context for all classes.")] = False,
    words: Annotated[str | None, typer.Option(help="What contexts start as; random by default.")] = None,
    epochs: Epochs = 20,
    warmup: Annotated[int, typer.Option(help="First epochs, on the clean cross-entropy alone.")] = 5,
    batch_size: BatchSize = 32,
    lr: Annotated[float, typer.Option(help="Learning rate of SGD, for losses divided by the batch size.")] = 2e-3,
    norm: Annotated[str, typer.Option(help="Of the inverted triggers: l2 or linf.")] = "l2",
    budget: Annotated[float, typer.Option(help="Their largest norm, in pixel units (0..1).")] = 2.0,
    steps: Annotated[int, typer.Option(help="Of inversion, a picture.")] = 10,
    positives: Annotated[str, typer.Option(help="Pictures aimed at: farthest, nearest or random.")] = "farthest",
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """CBPT: tune class-wise text prompts against inverted triggers, on a few clean pictures."""
    from ..cbpt import CBPT
    from ..inversion import Inversion

    inner = {"norm": norm, "budget": budget, "steps": steps, "positives": positives}
    settings: dict[str, Any] = {"shots": shots, "length": length, "position": position, "shared": shared}
    settings |= {"words": words, "epochs": epochs, "warmup": warmup, "batch_size": batch_size, "lr": lr}
    defense = CBPT(**settings, inversion=Inversion(**inner), seed=seed, checkpoint=_checkpoint(out))
    subject = (model, data, attack, target, images, seed, device)
    _tuned("cbpt", defense, subject, tune_on, None, False, out, force, as_json)


def _checkpoint(out: Path | None) -> Path | None:
    """Where a run that is interrupted goes on."""
    return None if out is None else out / "tuning"


def _tuned(
    name: str,
    defense: RVPT | CBPT,
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
    from clip_decomp.training.parallel import launched

    from ..few_shot import world_pictures
    from ..rvpt import RVPT

    clock, seed = Clock(), subject_of[5]
    subject = attacked(*subject_of)
    test, target = subject.data.test, subject.target
    where = tune_on or subject_of[1] or subject.model.card.get("data")
    opened = open_data(where, subject.model.visual.image_size, seed, train=world_pictures(defense.shots))
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
    if isinstance(defense, RVPT):
        defense.fit(subject.model, train, without=without)
    else:
        defense.fit(subject.model, train)
    if not launched(subject.model.device).main:
        return  # one of several processes measures and writes
    tuning = max(clock() - start, defense.history_[-1]["seconds"])  # those before an interruption included
    after = evaluate(defense, test, subject.trigger, target, progress=True)
    if out is not None:
        defense.save(out / "prompts")
    metrics = before.metrics(prefix(test.name, subject.attack, "none"))
    metrics |= after.metrics(prefix(test.name, subject.attack, name))
    described = {**subject.settings(), "templates": list(test.templates), "tuned_on": train.name, "without": without}
    described |= defense.settings() | {"parameters": defense.parameters, "tuning_seconds": round(tuning, 1)}
    if isinstance(defense, RVPT):
        described["blocks"] = defense.prompts_.blocks
    counts = {**subject.counts(), "tuned": len(defense.chosen_)}
    results = Results(f"defend {name}", scale_of(test.name), seed, described, counts, metrics, clock())
    rows = compared(before, after)
    rows.append(("tuned", f"{len(defense.chosen_)} pictures, {defense.parameters:,} parameters, {tuning:.0f} s"))
    for key, last in defense.history_[-1].items():
        first = next(epoch[key] for epoch in defense.history_ if key in epoch)  # some begin after a warm-up
        if key != "seconds":
            rows.append((key.replace("_", " "), f"{first:.3f}  ->  {last:.3f}"))
    finish(results, out, as_json, rows)
