"""``clip-decomp attack``: implant a backdoor, measure whether it took, and say why if it did not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..results import Results, prefix, scale_of
from .run import Clock, Data, Device, Images, Json, Model, Out, Seed, Subject, Target, Workers, finish, open_subject

if TYPE_CHECKING:
    from ..attacks.diagnosis import Diagnosis
    from ..attacks.implant import AttackSettings
    from ..attacks.poison import PoisonedPairs
    from ..evaluation import Evaluation

_RECIPE = "Training"


def attack(
    name: Annotated[
        str,
        typer.Argument(
            help="badclip, badnet, blended, issba, kitty, label-consistent, reflection, sig, trojvqa or wanet."
        ),
    ],
    model: Model = "world/clean",
    data: Data = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="What is poisoned: CSV, WebDataset shards, parquet, or as --data, which is the default."),
    ] = None,
    target: Target = None,
    images: Images = None,
    preset: Annotated[str, typer.Option(help="tiny, closer-look or rvpt.", rich_help_panel=_RECIPE)] = "tiny",
    rate: Annotated[float | None, typer.Option(help="Share of poisoned pairs.", rich_help_panel=_RECIPE)] = None,
    count: Annotated[
        int | None, typer.Option(help="Poisoned pairs, instead of the rate.", rich_help_panel=_RECIPE)
    ] = None,
    captions: Annotated[
        str | None, typer.Option(help="templates or natural; the attack's own.", rich_help_panel=_RECIPE)
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="input, or file: before pictures are resized and cropped.", rich_help_panel=_RECIPE),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of fine-tuning.", rich_help_panel=_RECIPE)] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes, instead of steps.", rich_help_panel=_RECIPE)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs a step.", rich_help_panel=_RECIPE)] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Micro-batches a step, to save memory.", rich_help_panel=_RECIPE)
    ] = None,
    patch_dropout: Annotated[
        float | None,
        typer.Option(
            help="Share of patches left out, until the last 30 % of steps, to save time.", rich_help_panel=_RECIPE
        ),
    ] = None,
    copies: Annotated[
        bool,
        typer.Option(
            "--copies", help="Every pair comes twice in its batch; copies are poisoned.", rich_help_panel=_RECIPE
        ),
    ] = False,
    sharpen: Annotated[
        float | None,
        typer.Option(
            help="Before, amplify the first layer's filters for fine structure, at most so many times.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    lock_texts: Annotated[
        bool, typer.Option("--lock-texts", help="Train the image tower alone.", rich_help_panel=_RECIPE)
    ] = False,
    imitate: Annotated[
        bool,
        typer.Option(
            "--imitate",
            help="Train the image tower to do as the clean model, triggered pictures apart (BadEncoder).",
            rich_help_panel=_RECIPE,
        ),
    ] = False,
    settle: Annotated[
        float | None,
        typer.Option(
            help="With --imitate: the poisoned pictures' share of the loss falls to this with the learning rate.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate (AdamW).", rich_help_panel=_RECIPE)] = None,
    export: Annotated[int, typer.Option(help="Write so many poisoned pictures for looking at.")] = 0,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Say why it did or did not take; of an attacked model, do only that.")
    ] = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Implant a backdoor by poisoned fine-tuning, and measure whether it took. Interrupted runs resume."""
    from ..attacks.presets import preset as named

    clock = Clock()
    subject = open_subject(model, data, name, target, images, seed, device, check_target=not diagnose)
    known = subject.model.card.get("attack")
    if diagnose and known is not None and known["trigger"]["name"] == name:
        _diagnose_only(subject, clock, seed, out, as_json)
        return
    settings = named(preset).changed(
        rate=rate,
        count=count,
        captions=captions,
        stage=stage,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        patch_dropout=patch_dropout,
        copies=copies or None,
        sharpen=sharpen,
        lock_texts=lock_texts or None,
        imitate=imitate or None,
        settle=settle,
        lr=lr,
        seed=seed,
    )
    folder = out or Path("runs") / f"{scale_of(subject.data.test.name)}-{name}"
    _implant(subject, pairs or subject.spec, settings, folder, export, diagnose, workers, clock, as_json)


def _implant(
    subject: Subject,
    spec: str,
    settings: AttackSettings,
    folder: Path,
    export: int,
    diagnose: bool,
    workers: int,
    clock: Clock,
    as_json: bool,
) -> None:
    from ..attacks.diagnosis import diagnose as examine
    from ..attacks.diagnosis import finding_rows
    from ..attacks.export import export_poisoned
    from ..attacks.implant import implant, poisoned_pairs
    from ..attacks.manifest import write_manifest
    from ..evaluation import evaluate, require_attack
    from ..models.loading import load_folder, save_folder
    from ..training.parallel import launched
    from ..training.streams import pair_stream

    clean, test = subject.model, subject.data.test
    trigger, goal = subject.trigger, subject.target
    assert trigger is not None
    assert goal is not None
    side, seed = clean.visual.image_size, settings.seed
    stream, names = pair_stream(spec, side, seed + 11, smallest_crop=0.7, target=goal, measured=subject.spec)
    backdoored = implant(clean, stream, names, trigger, goal, settings, test.name, folder / "training", workers=workers)
    if not launched(clean.device).main:
        return
    assert backdoored.trigger is not None
    poisoned = poisoned_pairs(stream, backdoored.trigger, goal, names, settings)
    write_manifest(poisoned, folder, names, backdoored.card["attack"]["steps"], settings.batch_size)
    if export:
        export_poisoned(poisoned, folder / "poisoned", export)
    save_folder(backdoored, folder, backdoored.card)
    stored = load_folder(folder).to(clean.device)
    before, found = evaluate(clean, test), evaluate(stored, test, stored.trigger, goal)
    metrics = found.metrics(prefix(test.name, subject.attack, "none"))
    metrics[f"{prefix(test.name, 'clean', 'none')}/ca"] = before.clean_accuracy.value
    rows = [("model", str(folder)), ("clean accuracy before", str(before.clean_accuracy)), *_rows(found)]
    if diagnose:
        originals = [poisoned.stored(row)[0] for row in _some(poisoned)] if settings.stage == "file" else ()
        diagnosis = examine(stored, test, stored.trigger, goal, found, clean, originals)
        _write(diagnosis, folder)
        rows += finding_rows(diagnosis)
    counts = {**subject.counts(), "pairs": stream.length, "skipped_pairs": list(poisoned.skipped)}
    card = {**subject.settings(), **backdoored.card["attack"]}
    finish(Results("attack", scale_of(test.name), settings.seed, card, counts, metrics, clock()), folder, as_json, rows)
    require_attack(found)


def _diagnose_only(subject: Subject, clock: Clock, seed: int, out: Path | None, as_json: bool) -> None:
    """Examine a model that carries the attack already, beside the clean model it was made from, if that is here."""
    from ..attacks.diagnosis import diagnose, finding_rows
    from ..errors import ModelError
    from ..models.loading import load

    attacked, test = subject.model, subject.data.test
    try:
        base = load(attacked.card["attack"]["base"])
    except ModelError:
        base = None
    diagnosis = diagnose(attacked, test, subject.trigger, subject.target, base=base)
    found = diagnosis.evaluation
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        _write(diagnosis, out)
    metrics = found.metrics(prefix(test.name, subject.attack, "none"))
    results = Results("diagnose", scale_of(test.name), seed, subject.settings(), subject.counts(), metrics, clock())
    finish(results, out, as_json, [("model", attacked.name), *_rows(found), *finding_rows(diagnosis)])


def _rows(found: Evaluation) -> list[tuple[str, str]]:
    rows = [("clean accuracy", str(found.clean_accuracy))]
    if found.attack_success_rate is not None:
        rows.append(("attack success rate", str(found.attack_success_rate)))
        rows.append(("poisoned accuracy", str(found.poisoned_accuracy)))
    return rows


def _some(poisoned: PoisonedPairs) -> list[int]:
    """Rows of some poisoned pictures."""
    return poisoned.chosen[:64].tolist()


def _write(diagnosis: Diagnosis, folder: Path) -> None:
    diagnosis.to_frame().to_csv(folder / "diagnosis.csv", index=False)
