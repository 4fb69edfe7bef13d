"""Decomp-Rep and Decomp-Det on the command line."""

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
    Target,
    finish,
)
from clip_decomp.results import Results, prefix, scale_of

from .subjects import attacked, compared

Epsilon = Annotated[
    float | None,
    typer.Option(help="Heads at most this similar to their prototype are suspicious; calibrated if unset."),
]
Measure = Annotated[str, typer.Option(help="dot (the paper's code) or cosine (its text).")]
Share = Annotated[float, typer.Option(help="Share of clean heads that a calibrated epsilon selects.")]


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

    from ..decomp_rep import DecompRep
    from ..decomp_rep_total import DecompRepTotal

    if effect not in ("direct", "total") or (effect == "total" and components != "heads"):
        raise SettingError(f"Repair has a direct effect, or a total one on heads; not effect={effect} on {components}.")
    clock = Clock()
    subject = attacked(model, data, attack, target, images, seed, device)
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
    finish(results, out, as_json, compared(before, after))


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

    from ..decomp_det import DecompDet
    from ..detection import detect

    clock = Clock()
    subject = attacked(model, data, attack, target, images, seed, device)
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


def _area(rate) -> str:
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] ({rate.count} in the smaller group)"
