"""Decomp-Rep and Decomp-Det on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

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
    components: Annotated[
        str, typer.Option(help="heads (patch triggers), mlps (global triggers) or auto (each picture's own evidence).")
    ] = "heads",
    effect: Annotated[
        str,
        typer.Option(help="direct (the paper's: edit the sum) or total (repair heads on the way)."),
    ] = "direct",
    epsilon: Epsilon = None,
    measure: Measure = "dot",
    share: Share = 0.05,
    replacement: Annotated[str, typer.Option(help="prototype, zero or random.")] = "prototype",
    fixed: Annotated[
        list[int] | None, typer.Option(help="Replace this head of every picture instead of selected ones; repeat.")
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, help="Replace so many random heads instead of selected ones.")
    ] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of clean pictures that each head deviates on, with --effect total.")
    ] = 0.01,
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
    if fixed and random:
        raise SettingError("Replace fixed heads or random ones, not both.")
    clock, subject = Clock(), attacked(model, data, attack, target, images, seed, device)
    held_out = subject.data.held_out

    def kept(repair: DecompRep | DecompRepTotal) -> Callable[[Path], None]:
        return lambda folder: repair.save(folder / "repair")

    def fit() -> Fitted:
        settings: dict[str, Any] = {"components": components, "effect": effect}
        key = f";components={components};effect={effect}"
        if effect == "total":
            total = DecompRepTotal(false_positive_rate=false_positive_rate).fit(subject.model, held_out)
            return Fitted(total, settings | {"false_positive_rate": false_positive_rate}, key=key, save=kept(total))
        heads = tuple(fixed) if fixed else random or "selected"
        asked = {"measure": measure, "replacement": replacement, "share": share, "heads": heads, "seed": seed}
        direct = DecompRep(components, epsilon=epsilon, **asked).fit(subject.model, held_out)
        used = None if components == "mlps" else direct.selector_.epsilon
        if replacement != "prototype":
            key += f";replacement={replacement}"
        if heads != "selected":
            key += f";heads={'+'.join(map(str, fixed)) if fixed else f'random{random}'}"
        return Fitted(direct, settings | {"epsilon": used} | asked, key=key, save=kept(direct))

    defend("decomp-rep", subject, fit, seed, out, force, as_json, clock)


def decomp_det(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    score: Annotated[str, typer.Option(help="count (the paper's) or distance, which is continuous.")] = "count",
    parts: Annotated[str, typer.Option(help="What a distance looks at: heads, mlps or both.")] = "both",
    epsilon: Epsilon = None,
    measure: Measure = "dot",
    share: Share = 0.3,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Decomp-Det: heads of the last layer unlike their clean prototypes, or how unlike clean activity all parts are."""
    from ..decomp_det import DecompDet

    clock = Clock()
    subject = attacked(model, data, attack, target, images, seed, device)

    def fit() -> FittedDetector:
        detector = DecompDet(score, epsilon=epsilon, measure=measure, share=share, parts=parts)  # type: ignore[arg-type]
        detector.fit(subject.model, subject.data.held_out)
        if score == "distance":
            key = f";score=distance;parts={parts}"
            return FittedDetector(detector, {"score": score, "parts": parts, "cutoff": detector.cutoff_}, key)
        settings = {"score": score, "epsilon": detector.selector_.epsilon, "measure": measure, "zeta": detector.zeta_}
        return FittedDetector(detector, settings, key=f";score={score}")

    detect("decomp-det", subject, fit, seed, out, force, as_json, clock)
