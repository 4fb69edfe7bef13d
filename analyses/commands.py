"""The analyses' commands: ``clip-decomp demo | readout | factors | study | repelling | adversarial``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_decomp.cli.run import Clock, Data, Device, Images, Json, Model, Out, Seed, check_device, finish
from clip_decomp.results import Results


def register(app: typer.Typer) -> None:
    """Add the analyses' commands."""
    app.command()(demo)
    app.command()(readout)
    app.command()(factors)
    app.command()(study)
    app.command()(repelling)
    app.command()(adversarial)


def demo(
    model: Annotated[
        list[str] | None, typer.Option(help="Backdoored models; the zoo's two by default. May be repeated.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Where their pictures are; the cards' by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html and results.json.")] = Path("runs/demo"),
    images: Annotated[int, typer.Option(help="Test images.")] = 1000,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Read backdoored CLIPs, show what is infected, catch and repair triggered inputs, and write a report."""
    from .demo import run

    run(tuple(model or ("world/badnet", "world/blended")), data, out, images, seed, device, as_json)


def readout(
    model: Model = "world/clean", out: Out = None, seed: Seed = 0, device: Device = "cpu", as_json: Json = False
) -> None:
    """Linear read-out of the world's factors (color, texture, position, ...) from a model's features."""
    from clip_decomp.models.loading import load

    from .readout import readout as read

    clock = Clock()
    found = read(load(model, device=check_device(device)), seed=seed)
    metrics = {f"world/clean/none/readout;factor={name}": each.accuracy.value for name, each in found.items()}
    metrics |= {f"world/clean/none/readout-chance;factor={name}": each.chance for name, each in found.items()}
    count = next(iter(found.values())).accuracy.count
    rows = [(name, f"{each.accuracy} (chance {each.chance:.1%})") for name, each in found.items()]
    finish(Results("readout", "world", seed, {"model": model}, {"test": count}, metrics, clock()), out, as_json, rows)


def factors(
    model: Model = "world/clean", out: Out = None, seed: Seed = 0, device: Device = "cpu", as_json: Json = False
) -> None:
    """Do the heads that TEXTSPAN names for a factor of the world carry its read-out? A rank correlation for each."""
    from clip_decomp.models.loading import load

    from .factors import factor_heads

    clock = Clock()
    found = factor_heads(load(model, device=check_device(device)), seed=seed)
    metrics: dict[str, float] = {}
    rows = [("", "rank correlation (p); named head, its rank in need; most needed head")]
    for each in found:
        metrics |= each.metrics("world/clean/none")
        rows.append(
            (
                each.factor,
                f"{each.correlation:+.2f} (p {each.p_value:.4f}), by share {each.share_correlation:+.2f} "
                f"(p {each.share_p_value:.4f}); {each.best_named}, rank {each.rank_of_named}; {each.best_needed}",
            )
        )
    counts = {"heads": found[0].lost.numel()}
    finish(Results("factors", "world", seed, {"model": model}, counts, metrics, clock()), out, as_json, rows)


def study(
    defense: Annotated[str, typer.Argument(help="rvpt, vpt, cbpt or linear-probe.")],
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

    from .study import Fit, metrics, rows, run, sweep

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


def repelling(
    model: Model,
    rvpt: Annotated[Path, typer.Option(help="Prompts that 'clip-decomp defend rvpt --out' wrote.")],
    vpt: Annotated[Path, typer.Option(help="Prompts that 'clip-decomp defend vpt --out' wrote.")],
    labels_only: Annotated[
        str, typer.Option(help="A model of the same shape whose image tower has learned from class labels alone.")
    ] = "world-labels/clean",
    data: Data = None,
    images: Images = 500,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Does repelling make features resistant? Resistivity of a label-only tower, a backdoored CLIP, VPT and RVPT."""
    from clip_decomp import plots
    from clip_decomp.cli.page import write_page
    from clip_decomp.cli.run import open_subject
    from clip_decomp.errors import ModelError, SettingError
    from clip_decomp.models.loading import load
    from clip_decomp.prompts.stored import read_card
    from clip_decomp.results import prefix, scale_of
    from defenses import RVPT

    from .repelling import compare, raised

    clock = Clock()
    subject = open_subject(model, data, None, None, images, seed, device)
    if subject.trigger is None:
        raise SettingError(f"{model} carries no attack on its card.")
    tower, reference = subject.model.visual, load(labels_only, device=device)
    if (reference.visual.n_layers, reference.visual.d_model) != (tower.n_layers, tower.d_model):
        raise ModelError(f"{labels_only} is not of the shape of {model}: layers and width must be the same.")
    tuned = {}
    for key, folder in (("RVPT", rvpt), ("VPT", vpt)):
        made = read_card(folder).get("defense")
        if made != key.lower():
            raise SettingError(f"{folder} holds prompts of {made}, not of {key}.")
        tuned[key] = RVPT.load(folder, subject.model)
    models = {"labels only": reference, "undefended": subject.model} | {key: each.hooked for key, each in tuned.items()}
    found = compare(models, subject.data.test, (subject.attack, subject.trigger), progress=not as_json)
    metrics: dict[str, float] = {}
    rows = [("", "class token, against the undefended model")]
    for what, panel in found.items():
        for name, each in panel.items():
            defense = "none" if name == "undefended" else name.lower().replace(" ", "-")
            metrics |= each.metrics(prefix(subject.data.test.name, subject.attack, defense))
        for name, each in tuned.items():
            change = raised(panel["undefended"], panel[name], each.prompts_.blocks[0])
            start = prefix(subject.data.test.name, subject.attack, name.lower())
            key = f"perturbation={panel[name].perturbation}"  # as in the curves' own metrics
            metrics |= {f"{start}/pr-higher;{key}": change.higher, f"{start}/pr-lower;{key}": change.lower}
            rows.append((f"{what}, {name}", str(change)))
    settings = {**subject.settings(), "labels_only": labels_only}
    settings |= {key.lower(): each.settings() for key, each in tuned.items()}
    scale = scale_of(subject.data.test.name)
    results = Results("repelling", scale, seed, settings, subject.counts(), metrics, clock())
    caption = "Class tokens with and without a perturbation; 1 is a feature that it does not reach."
    figure = plots.resistivity_panels(found, "Does repelling make features resistant?")
    write_page(out, "Repelling and resistivity", subject, results, [(caption, figure)], [("Layers", _table(rows[1:]))])
    finish(results, out, as_json, rows)


def _table(rows: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"perturbation, defense": name, "class token": text} for name, text in rows]


def adversarial(
    model: Model,
    rvpt: Annotated[Path, typer.Option(help="Prompts that 'clip-decomp defend rvpt --out' wrote.")],
    shots: Annotated[int, typer.Option(help="Training pictures a class, of adversarial prompt tuning.")] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 50,
    budget: Annotated[float, typer.Option(help="Largest change of a pixel value, of 255.")] = 8.0,
    steps: Annotated[int, typer.Option(help="Of projected gradient descent.")] = 10,
    data: Data = None,
    images: Images = 500,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Accuracy under adversarial noise (PGD) of the undefended model, RVPT and adversarial prompt tuning."""
    from clip_decomp.cli.run import open_subject
    from clip_decomp.evaluation import evaluate, interval_metrics
    from clip_decomp.results import prefix, scale_of
    from defenses import RVPT
    from defenses.adv_pt import AdvPT
    from defenses.few_shot import training_pictures
    from defenses.robustness import pgd_accuracy

    clock = Clock()
    tuned = AdvPT(shots=shots, epochs=epochs, budget=budget / 255, steps=steps, seed=seed, progress=not as_json)
    subject = open_subject(model, data, None, None, images, seed, device)
    test, scale = subject.data.test, subject.model.logit_scale.item()
    defended = RVPT.load(rvpt, subject.model)
    tuned.fit(subject.model, training_pictures(subject.spec, subject.model.visual.image_size, seed, shots))
    metrics: dict[str, float] = {}
    rows = [("", f"clean accuracy; accuracy under PGD, {steps} steps, {budget:g}/255")]
    for name, each in (("none", subject.model), ("rvpt", defended), ("advpt", tuned)):
        clean = evaluate(each, test).clean_accuracy
        noisy = pgd_accuracy(each, test, scale, budget / 255, steps, seed, progress=None if as_json else name)
        start = prefix(test.name, "clean", name)
        metrics |= interval_metrics(start, {"ca": clean, "ca;attack=pgd": noisy})
        rows.append((name, f"{clean}; {noisy}"))
    settings = {**subject.settings(), "budget": budget / 255, "steps": steps}
    settings |= {"rvpt": defended.settings(), "advpt": tuned.settings()}
    results = Results("adversarial", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    finish(results, out, as_json, rows)
