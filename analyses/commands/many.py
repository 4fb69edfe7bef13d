"""Commands on many models or settings: ``clip-decomp study | audits``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_decomp.cli.run import Clock, Device, Json, Seed, check_device, finish
from clip_decomp.results import Results


def study(
    defense: Annotated[str, typer.Argument(help="rvpt, vpt, cbpt, linear-probe, finetune, cleanclip or advpt.")],
    model: Annotated[list[str], typer.Option(help="Backdoored models. May be repeated.")],
    vary: Annotated[
        list[str] | None, typer.Option(help="Settings to try, e.g. alpha=0,1,2; repeated ones are combined.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    data: Annotated[str | None, typer.Option(help="Where the pictures are; the cards' by default.")] = None,
    tune_on: Annotated[str | None, typer.Option(help="Data to tune on; the first test set's by default.")] = None,
    test: Annotated[
        list[str] | None, typer.Option(help="Test sets, e.g. world:outlines; the card's by default. May be repeated.")
    ] = None,
    template: Annotated[list[str] | None, typer.Option(help="Templates to try, '{}' the class.")] = None,
    without_target: Annotated[
        bool, typer.Option("--without-target", help="Leave the target class out of tuning.")
    ] = False,
    images: Annotated[int | None, typer.Option(help="At most this many test images of each set.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json and each fit's numbers.")] = Path("runs/study"),
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """A tuned defense on several models, seeds, settings and test sets; an interrupted study goes on."""
    from clip_decomp.errors import SettingError
    from clip_decomp.models.fingerprint import fingerprint
    from clip_decomp.models.loading import load
    from clip_decomp.results import scale_of

    from ..fits import Fit, run
    from ..study import metrics, rows, sweep

    clock, settings = Clock(), sweep(vary or [])
    fits = []
    for name in model:
        opened = load(name, device=check_device(device))
        where = data or opened.card.get("data")
        if not test and where is None:
            raise SettingError(f"{name}: say where its pictures are with --data or --test; its card does not.")
        tests, tower = tuple(test or [where]), fingerprint(opened)
        fits += [
            Fit(name, tower, defense, each, seed, tune_on or tests[0], tests, images, text, without_target)
            for each in settings
            for text in template or [None]
            for seed in range(seeds)
        ]
    for fit in fits:
        fit.made()  # complains about a setting before hours are spent on others
    measured = list(run(fits, data, out, device))
    described = {"defense": defense, "models": model, "vary": vary or [], "seeds": seeds, "templates": template}
    counts = {"fits": len(fits), "pictures": measured[0]["pictures"]}
    scale = scale_of(fits[0].tests[0])
    results = Results(f"study {defense}", scale, 0, described, counts, metrics(measured), clock())
    finish(results, out, as_json, rows(measured))


def audits(
    model: Annotated[list[str], typer.Option(help="Backdoored models. Repeat.")],
    clean: Annotated[list[str], typer.Option(help="Models without a backdoor to test beside them. Repeat.")],
    calibrate: Annotated[list[str], typer.Option(help="Others, whose largest score is the threshold. Repeat.")],
    images: Annotated[str, typer.Option(help="Labelled data; labels are only used for the classes' names.")] = "world",
    count: Annotated[int, typer.Option(help="At most this many pictures.")] = 192,
    out: Annotated[Path, typer.Option(help="Folder for results.json and each model's scan.")] = Path("runs/audits"),
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """How well does the audit tell backdoored models from clean ones? An interrupted run goes on."""
    from clip_decomp import plots
    from clip_decomp.errors import SettingError
    from clip_decomp.report import Section, write_report
    from clip_decomp.results import prefix, scale_of

    from ..audits import audited, summary

    everyone = [*model, *clean, *calibrate]
    twice = {name for name in everyone if everyone.count(name) > 1}
    if twice:
        raise SettingError(f"A model is audited once, and does not calibrate what it is tested by: {sorted(twice)}.")
    clock, device = Clock(), check_device(device)
    every = audited(everyone, images, count, out / "scans", seed, device)
    three = every[: len(model)], every[len(model) : -len(calibrate)], every[-len(calibrate) :]
    threshold = max(each.score for each in three[2])
    found = summary(three[0], three[1], threshold, seed)
    start = prefix(images, "clean", "none")
    metrics = {f"{start}/{key}": value for key, value in found.items()}
    for each in every:
        metrics[f"{prefix(images, each.attack, 'none')}/audit-score;model={each.model}"] = each.score
    table = [
        {
            "model": each.model,
            "score": f"{each.score:.2f}",
            "target's place": each.place or "",
            "first": each.ranking[0],
        }
        for each in every
    ]
    names = (f"backdoored ({len(model)})", f"clean ({len(clean)})", f"clean, for calibration ({len(calibrate)})")
    scores = {name: [(each.model, each.score) for each in group] for name, group in zip(names, three, strict=True)}
    settings = {"backdoored": model, "clean": clean, "calibrating": calibrate, "threshold": threshold, "images": images}
    counts = {"pictures": count, "models": len(every)}
    results = Results("audits", scale_of(images), seed, settings, counts, metrics, clock())
    figure = plots.group_scores(scores, threshold, "Which models does the audit suspect?", "score")
    section = Section(
        "Scores",
        figures=[("Each dot is a model, at the score of its cheapest class.", figure)],
        tables=[("All models", table)],
    )
    rows = [(key.removeprefix("audit-").replace("-", " "), f"{value:.3f}") for key, value in found.items()]
    area, low, high = (found[f"audit-auroc{end}"] for end in ("", "/low", "/high"))
    first, caught, alarms = (found[f"audit-{key}"] for key in ("target-first", "found", "false-alarms"))
    lead = (
        f"The score tells {len(model)} backdoored models from {len(clean)} clean ones with an AUROC of {area:.3f} "
        f"[{low:.3f}, {high:.3f}]. The target is the cheapest class of {first:.0%} of the backdoored models. The "
        f"threshold of {threshold:.2f} is the largest score of other clean models ({len(calibrate)}); {caught:.0%} of "
        f"the backdoored models and {alarms:.0%} of the clean ones exceed it."
    )
    write_report(out / "report.html", "Audits", lead, [section], {"Pictures": images, "Seed": str(seed)})
    finish(results, out, as_json, [("threshold", f"{threshold:.2f}"), *rows])
