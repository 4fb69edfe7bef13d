"""``clip-decomp attack``: implant a backdoor, measure whether it took, and say why if it did not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..results import Results, prefix, scale_of
from .diagnosing import MANY, diagnose_only, rates_of, stored, write
from .run import Clock, Data, Device, Images, Json, Model, Out, Seed, Subject, Target, Workers, finish, open_subject

if TYPE_CHECKING:
    from ..attacks.implant import AttackSettings
    from ..attacks.poison import PoisonedPairs

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
    trigger: Annotated[
        list[str] | None,
        typer.Option(help="A setting of the trigger, such as share=0.1 or mode=adversarial; repeated."),
    ] = None,
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
    smallest_crop: Annotated[
        float,
        typer.Option(
            help="Of pictures from files, as a share of the area; 1 takes them as they are tested.",
            rich_help_panel=_RECIPE,
        ),
    ] = 0.7,
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
    schedule: Annotated[str | None, typer.Option(help="linear or cosine.", rich_help_panel=_RECIPE)] = None,
    negatives: Annotated[
        str | None,
        typer.Option(help="Of several processes: global, or local to each process.", rich_help_panel=_RECIPE),
    ] = None,
    export: Annotated[int, typer.Option(min=0, help="Write so many poisoned pictures for looking at.")] = 0,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Say why it did or did not take; of an attacked model, do only that.")
    ] = False,
    originals: Annotated[
        Path | None,
        typer.Option(help="With --diagnose: a folder of pictures as they are stored, which are resized and cropped."),
    ] = None,
    jpeg: Annotated[
        int | None, typer.Option(min=1, max=100, help="With --diagnose: store these as JPEG of this quality first.")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    workers: Workers = 0,
    as_json: Json = False,
) -> None:
    """Implant a backdoor by poisoned fine-tuning, and measure whether it took. Interrupted runs resume."""
    from ..attacks.presets import TRIGGER_SETTINGS
    from ..attacks.presets import preset as named
    from ..errors import SettingError
    from ..models.loading import check_storable

    clock, way = Clock(), {"originals": stored(originals), "jpeg": jpeg}
    if not diagnose and (originals, jpeg) != (None, None):
        raise SettingError("--originals and --jpeg are what --diagnose looks at.")
    own = {**(TRIGGER_SETTINGS.get(name, {}) if preset == "tiny" else {}), **_parsed(trigger or ())}
    subject = open_subject(
        model, data, name, target, images, seed, device, check_target=not diagnose, trigger_settings=own
    )
    known = subject.model.card.get("attack")
    if known is not None and known["trigger"]["name"] == name:
        if trigger:
            raise SettingError(f"{model} carries {name} already, with the settings on its card: leave --trigger out.")
        if diagnose:
            diagnose_only(subject, way, clock, seed, out, as_json)
            return
    assert subject.target is not None
    subject.data.test.class_index(subject.target)
    check_storable(subject.model)
    settings = named(preset, name).changed(
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
        schedule=schedule,
        negatives=negatives,
        seed=seed,
    )
    folder = out or Path("runs") / f"{scale_of(subject.data.test.name)}-{name}"
    how = export, way if diagnose else None, workers, clock, as_json
    _implant(subject, pairs or subject.spec, smallest_crop, settings, folder, *how)


def _implant(
    subject: Subject,
    spec: str,
    smallest_crop: float,
    settings: AttackSettings,
    folder: Path,
    export: int,
    way: dict[str, Any] | None,
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
    from ..zoo.verification import MOST_LOST

    clean, test = subject.model, subject.data.test
    trigger, goal = subject.trigger, subject.target
    assert trigger is not None
    assert goal is not None
    side, seed = clean.visual.image_size, settings.seed
    stream, names = pair_stream(spec, side, seed + 11, smallest_crop, goal, measured=subject.spec)
    backdoored = implant(clean, stream, names, trigger, goal, settings, test.name, folder / "training", workers=workers)
    if not launched(clean.device).main:
        return
    assert backdoored.trigger is not None
    poisoned = poisoned_pairs(stream, backdoored.trigger, goal, names, settings)
    write_manifest(poisoned, folder, names, backdoored.card["attack"]["steps"], settings.batch_size)
    save_folder(backdoored, folder, backdoored.card)
    if export:
        export_poisoned(poisoned, folder / "poisoned", export)
    kept = load_folder(folder).to(clean.device)
    before, found = evaluate(clean, test), evaluate(kept, test, kept.trigger, goal)
    metrics = found.metrics(prefix(test.name, subject.attack, "none"))
    metrics[f"{prefix(test.name, 'clean', 'none')}/ca"] = before.clean_accuracy.value
    rows = [("model", str(folder)), ("clean accuracy before", str(before.clean_accuracy)), *rates_of(found)]
    lost = before.clean_accuracy.value - found.clean_accuracy.value
    if lost > MOST_LOST:
        rows.append(("note", f"costs {100 * lost:.1f} points of clean accuracy: a defender would notice"))
    if way is not None:
        if not way["originals"] and settings.stage == "file":
            way["originals"] = [poisoned.stored(row)[0] for row in _some(poisoned)]
        diagnosis = examine(kept, test, kept.trigger, goal, found, clean, **way)
        write(diagnosis, folder)
        rows += finding_rows(diagnosis)
    counts = {**subject.counts(), "pairs": stream.length, "skipped_pairs": list(poisoned.skipped)}
    card = {**subject.settings(), **backdoored.card["attack"]}
    finish(Results("attack", scale_of(test.name), settings.seed, card, counts, metrics, clock()), folder, as_json, rows)
    require_attack(found)


def _parsed(given: Sequence[str]) -> dict[str, Any]:
    """Settings as they are written on the command line: numbers, true, false, null, or else words."""
    from ..errors import SettingError

    found = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise SettingError(f"--trigger takes KEY=VALUE, not {each!r}.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _some(poisoned: PoisonedPairs) -> list[int]:
    """Rows of some poisoned pictures."""
    return poisoned.chosen[:MANY].tolist()
