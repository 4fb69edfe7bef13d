"""The defenses' commands: ``clip-decomp defend`` and ``clip-decomp detect``."""

from __future__ import annotations

from typing import Annotated

import typer

from clip_decomp.cli.run import (
    Attack,
    Clock,
    Data,
    Device,
    Force,
    Images,
    Json,
    Model,
    Out,
    Seed,
    Subject,
    Target,
    finish,
    open_subject,
)
from clip_decomp.results import Results, prefix, scale_of

_defend = typer.Typer(help="Take the backdoor out of a model, and measure before and after.", no_args_is_help=True)
_detect = typer.Typer(help="Score inputs, and measure how well triggered ones stand out.", no_args_is_help=True)

Epsilon = Annotated[
    float | None,
    typer.Option(help="Heads at most this similar to their prototype are suspicious; calibrated if unset."),
]
Measure = Annotated[str, typer.Option(help="dot (the paper's code) or cosine (its text).")]
Share = Annotated[float, typer.Option(help="Share of clean heads that a calibrated epsilon selects.")]


def register(app: typer.Typer) -> None:
    """Add the defenses' commands."""
    app.add_typer(_defend, name="defend")
    app.add_typer(_detect, name="detect")


@_defend.callback()
def _defend_group() -> None:
    """Take the backdoor out of a model, and measure before and after."""


@_detect.callback()
def _detect_group() -> None:
    """Score inputs, and measure how well triggered ones stand out."""


@_defend.command("decomp-rep")
def decomp_rep(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    components: Annotated[str, typer.Option(help="heads (patch triggers) or mlps (global triggers).")] = "heads",
    effect: Annotated[
        str,
        typer.Option(help="direct (the paper's: edit the sum) or total (repair heads on the way)."),
    ] = "direct",
    epsilon: Epsilon = None,
    measure: Measure = "dot",
    share: Share = 0.05,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Decomp-Rep: replace infected heads of the last layer, or the last five MLPs, by their clean means."""
    from clip_decomp.errors import SettingError
    from clip_decomp.evaluation import evaluate, require_attack

    from .decomp_rep import DecompRep
    from .decomp_rep_total import DecompRepTotal

    if effect not in ("direct", "total") or (effect == "total" and components != "heads"):
        raise SettingError(f"Repair has a direct effect, or a total one on heads; not effect={effect} on {components}.")
    clock = Clock()
    subject = _attacked(model, data, attack, target, images, seed, device)
    test = subject.data.test
    before = evaluate(subject.model, test, subject.trigger, subject.target, progress=True)
    if not force:
        require_attack(before)
    held_out = subject.data.held_out
    settings = {**subject.settings(), "components": components, "effect": effect}
    defense: DecompRep | DecompRepTotal
    if effect == "total":
        defense = DecompRepTotal().fit(subject.model, held_out)
        settings |= {"false_positive_rate": defense.false_positive_rate}
    else:
        defense = DecompRep(components, epsilon=epsilon, measure=measure, share=share).fit(subject.model, held_out)
        used = defense.selector_.epsilon if components == "heads" else None
        settings |= {"epsilon": used, "measure": measure, "share": share}
    after = evaluate(defense, test, subject.trigger, subject.target, progress=True)
    key = f";components={components};effect={effect}"
    metrics = before.metrics(prefix(test.name, subject.attack, "none"))
    metrics |= {k + key: v for k, v in after.metrics(prefix(test.name, subject.attack, "decomp-rep")).items()}
    results = Results("defend decomp-rep", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    rows = [("", "undefended  ->  repaired")]
    for what, first, second in (
        ("attack success rate", before.attack_success_rate, after.attack_success_rate),
        ("clean accuracy", before.clean_accuracy, after.clean_accuracy),
        ("poisoned accuracy", before.poisoned_accuracy, after.poisoned_accuracy),
    ):
        rows.append((what, f"{first}  ->  {second}"))
    finish(results, out, as_json, rows)


@_detect.command("decomp-det")
def decomp_det(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    score: Annotated[str, typer.Option(help="count (the paper's) or distance.")] = "count",
    epsilon: Epsilon = None,
    measure: Measure = "dot",
    share: Share = 0.3,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Decomp-Det: count the heads of the last layer that are unlike their clean prototypes."""
    from clip_decomp.evaluation import evaluate, require_attack

    from .decomp_det import DecompDet
    from .detection import detect

    clock = Clock()
    subject = _attacked(model, data, attack, target, images, seed, device)
    test = subject.data.test
    undefended = evaluate(subject.model, test, subject.trigger, subject.target, progress=True)
    if not force:
        require_attack(undefended)
    detector = DecompDet(score, epsilon=epsilon, measure=measure, share=share)
    detector.fit(subject.model, subject.data.held_out)
    found = detect(detector, subject.model, test, subject.trigger, subject.target, seed, progress=True)
    metrics = undefended.metrics(prefix(test.name, subject.attack, "none"))
    key = f";score={score}"
    metrics |= {k + key: v for k, v in found.metrics(prefix(test.name, subject.attack, "decomp-det")).items()}
    settings = {
        **subject.settings(),
        "score": score,
        "epsilon": detector.selector_.epsilon,
        "measure": measure,
        "zeta": detector.zeta_,
    }
    counts = {**subject.counts(), "target_clean": len(found.target_clean), "triggered": len(found.triggered)}
    results = Results("detect decomp-det", scale_of(test.name), seed, settings, counts, metrics, clock())
    rows = [
        ("attack success rate, undefended", str(undefended.attack_success_rate)),
        ("AUROC against all clean pictures", _area(found.auroc)),
        (f"AUROC against clean {subject.target}", _area(found.auroc_target)),
    ]
    finish(results, out, as_json, rows)


def _attacked(
    model: str, data: str | None, attack: str | None, target: str | None, images: int | None, seed: int, device: str
) -> Subject:
    from clip_decomp.errors import SettingError

    subject = open_subject(model, data, attack, target, images, seed, device)
    if subject.trigger is None:
        raise SettingError(f"{model} carries no attack on its card: name one with --attack.")
    return subject


def _area(rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] ({rate.count} in the smaller group)"
