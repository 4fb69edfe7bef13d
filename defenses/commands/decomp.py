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
Layers = Annotated[
    list[int] | None,
    typer.Option(help="Layer to look at, from zero, negative ones from the end; repeat. The paper's by default."),
]
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
    layer: Layers = None,
    fixed: Annotated[
        list[int] | None, typer.Option(help="Replace this head of every picture instead of selected ones; repeat.")
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, help="Replace so many random heads instead of selected ones.")
    ] = None,
    false_positive_rate: Annotated[
        float, typer.Option(help="Share of clean pictures that each head deviates on, with --effect total.")
    ] = 0.01,
    reverse: Annotated[
        bool,
        typer.Option("--reverse", help="Decomp-Reverse, too: selected heads of triggered pictures, in clean ones."),
    ] = False,
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
    from ..reversal import reverse_rates

    if effect not in ("direct", "total") or (effect == "total" and components != "heads"):
        raise SettingError(f"Repair has a direct effect, or a total one on heads; not effect={effect} on {components}.")
    if fixed and random:
        raise SettingError("Replace fixed heads or random ones, not both.")
    if reverse and (effect == "total" or components != "heads"):
        raise SettingError("Decomp-Reverse moves direct contributions of heads: use it with components=heads.")
    layers = tuple(layer) if layer else None
    clock, subject = Clock(), attacked(model, data, attack, target, images, seed, device)
    held_out = subject.data.held_out

    def kept(repair: DecompRep | DecompRepTotal) -> Callable[[Path], None]:
        return lambda folder: repair.save(folder / "repair")

    def fit() -> Fitted:
        settings: dict[str, Any] = {"components": components, "effect": effect, "layers": layers}
        key = f";components={components};effect={effect}{_named(layers)}"
        if effect == "total":
            total = DecompRepTotal(layers, false_positive_rate).fit(subject.model, held_out)
            return Fitted(total, settings | {"false_positive_rate": false_positive_rate}, key=key, save=kept(total))
        heads = tuple(fixed) if fixed else random or "selected"
        asked = {"measure": measure, "replacement": replacement, "share": share, "heads": heads, "seed": seed}
        direct = DecompRep(components, layers, epsilon=epsilon, **asked).fit(subject.model, held_out)
        used = None if components == "mlps" else direct.selector_.epsilon
        if replacement != "prototype":
            key += f";replacement={replacement}"
        if heads != "selected":
            key += f";heads={'+'.join(map(str, fixed)) if fixed else f'random{random}'}"
        fitted = Fitted(direct, settings | {"epsilon": used} | asked, key=key, save=kept(direct))
        if reverse:
            success, accuracy = reverse_rates(
                direct, subject.data.test, subject.trigger, subject.target, progress=not as_json
            )
            fitted.metrics = {"reverse-asr": success.value, "reverse-ca": accuracy.value}
            fitted.rows = [
                ("clean pictures with the heads of triggered ones: given the target", str(success)),
                ("the same: given their class", str(accuracy)),
            ]
        return fitted

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
    layer: Layers = None,
    zeta: Annotated[
        float | None, typer.Option(help="More suspicious heads than this flag a picture; 5 of 12 by default.")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Decomp-Det: heads of the last layer unlike their clean prototypes, or how unlike clean activity all parts are."""
    from ..decomp_det import DecompDet

    clock, layers = Clock(), tuple(layer) if layer else None
    subject = attacked(model, data, attack, target, images, seed, device)

    def fit() -> FittedDetector:
        asked = {"epsilon": epsilon, "measure": measure, "zeta": zeta, "share": share, "parts": parts}
        detector = DecompDet(score, layers, **asked)  # type: ignore[arg-type]
        detector.fit(subject.model, subject.data.held_out)
        if score == "distance":
            key = f";score=distance;parts={parts}"
            return FittedDetector(detector, {"score": score, "parts": parts, "cutoff": detector.cutoff_}, key)
        settings = {"score": score, "epsilon": detector.selector_.epsilon, "measure": measure, "zeta": detector.zeta_}
        return FittedDetector(detector, settings | {"layers": layers}, key=f";score={score}{_named(layers)}")

    detect("decomp-det", subject, fit, seed, out, force, as_json, clock)


def _named(layers: tuple[int, ...] | None) -> str:
    """Layers in a metric's name, where they are not the paper's."""
    return "" if layers is None else f";layers={'+'.join(map(str, layers))}"
