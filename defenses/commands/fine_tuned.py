"""FT and CleanCLIP on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Target, finish
from clip_decomp.results import Results, prefix, scale_of

from .subjects import attacked, compared

if TYPE_CHECKING:
    from ..fine_tune import FineTune

#: Clean pairs of the world come from another stream than those that models were trained and attacked on.
_CLEAN_STREAM_SEED = 2021

Pairs = Annotated[
    str | None, typer.Option(help="Clean pairs, as --data or captioned files; the test data's by default.")
]
Preset = Annotated[str, typer.Option(help="tiny, cleanclip or rvpt: where the settings start from.")]
Count = Annotated[int | None, typer.Option(help="How many pairs.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over them.")]
BatchSize = Annotated[int | None, typer.Option(help="Pairs a step.")]
Rate = Annotated[float | None, typer.Option("--lr", help="AdamW's peak learning rate.")]


def finetune(
    model: Model,
    pairs: Pairs = None,
    preset: Preset = "tiny",
    count: Count = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """FT: fine-tune the whole model on clean pairs with the CLIP loss."""
    from ..fine_tune import FineTune

    settings = {"pairs": count, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    defense = _made(FineTune, preset, settings, seed, out, as_json)
    _tuned(defense, (model, data, attack, target, images, seed, device), pairs, out, force, as_json)


def cleanclip(
    model: Model,
    pairs: Pairs = None,
    preset: Preset = "tiny",
    count: Count = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """CleanCLIP: fine-tune the whole model on clean pairs, with self-supervision of pictures and of captions."""
    from ..fine_tune import CleanCLIP

    settings = {"pairs": count, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    defense = _made(CleanCLIP, preset, settings, seed, out, as_json)
    _tuned(defense, (model, data, attack, target, images, seed, device), pairs, out, force, as_json)


def _made(
    kind: type[FineTune], preset: str, settings: dict[str, Any], seed: int, out: Path | None, as_json: bool
) -> FineTune:
    changes = {key: value for key, value in settings.items() if value is not None}
    checkpoint = None if out is None else out / "tuning"
    return kind.preset(preset, **changes, seed=seed, checkpoint=checkpoint, progress=not as_json)


def _tuned(
    defense: FineTune, subject_of: tuple[Any, ...], pairs: str | None, out: Path | None, force: bool, as_json: bool
) -> None:
    from clip_decomp.evaluation import evaluate, require_attack
    from clip_decomp.models.loading import save_folder
    from clip_decomp.training.parallel import launched
    from clip_decomp.training.streams import pair_stream

    clock, subject = Clock(), attacked(*subject_of)
    test, seed = subject.data.test, subject_of[5]
    where = pairs or subject_of[1] or subject.model.card["data"]
    before = evaluate(subject.model, test, subject.trigger, subject.target, progress=True)
    if not force:
        require_attack(before)
    start = clock()
    stream, _ = pair_stream(where, subject.model.visual.image_size, _CLEAN_STREAM_SEED + seed)
    defense.fit(subject.model, stream)
    if not launched(subject.model.device).main:
        return  # one of several processes measures and writes
    tuning = max(clock() - start, defense.history_[-1]["seconds"])  # those before an interruption included
    after = evaluate(defense, test, subject.trigger, subject.target, progress=True)
    if out is not None:
        save_folder(defense.tuned_, out / "model", defense.tuned_.card)
    metrics = before.metrics(prefix(test.name, subject.attack, "none"))
    metrics |= after.metrics(prefix(test.name, subject.attack, defense.name))
    described = {**subject.settings(), **defense.settings(), "clean_pairs": where}
    described |= {"parameters": defense.parameters, "tuning_seconds": round(tuning, 1)}
    counts = {**subject.counts(), "tuned": defense.pairs}
    results = Results(f"defend {defense.name}", scale_of(test.name), seed, described, counts, metrics, clock())
    tuned = f"{defense.pairs} pairs, {defense.parameters:,} parameters, {tuning:.0f} s"
    finish(results, out, as_json, [*compared(before, after), ("tuned", tuned)])
