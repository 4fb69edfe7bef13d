"""Commands about what repelling changes: ``clip-decomp repelling | adversarial``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clip_decomp.cli.run import Clock, Data, Device, Images, Json, Model, Out, Seed, finish
from clip_decomp.results import Results


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

    from ..repelling import compare, raised

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
