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
)

from .detect import FittedDetector, detect
from .subjects import Fitted, attacked, defend

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

    from ..decomp_rep import DecompRep
    from ..decomp_rep_total import DecompRepTotal

    if effect not in ("direct", "total") or (effect == "total" and components != "heads"):
        raise SettingError(f"Repair has a direct effect, or a total one on heads; not effect={effect} on {components}.")
    clock, subject = Clock(), attacked(model, data, attack, target, images, seed, device)
    held_out = subject.data.held_out

    def fit() -> Fitted:
        settings = {"components": components, "effect": effect}
        key = f";components={components};effect={effect}"
        if effect == "total":
            total = DecompRepTotal().fit(subject.model, held_out)
            return Fitted(total, settings | {"false_positive_rate": total.false_positive_rate}, key=key)
        direct = DecompRep(components, epsilon=epsilon, measure=measure, share=share).fit(subject.model, held_out)
        used = direct.selector_.epsilon if components == "heads" else None
        return Fitted(direct, settings | {"epsilon": used, "measure": measure, "share": share}, key=key)

    defend("decomp-rep", subject, fit, seed, out, force, as_json, clock)


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
    from ..decomp_det import DecompDet

    clock = Clock()
    subject = attacked(model, data, attack, target, images, seed, device)

    def fit() -> FittedDetector:
        detector = DecompDet(score, epsilon=epsilon, measure=measure, share=share)
        detector.fit(subject.model, subject.data.held_out)
        settings = {"score": score, "epsilon": detector.selector_.epsilon, "measure": measure, "zeta": detector.zeta_}
        return FittedDetector(detector, settings, key=f";score={score}")

    detect("decomp-det", subject, fit, seed, out, force, as_json, clock)
