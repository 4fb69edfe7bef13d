"""What a guard does to an attack, on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Target

from .subjects import Fitted, attacked, defend


def guarded(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    mode: Annotated[str, typer.Option(help="flag, reject or repair; what is flagged is the same.")] = "repair",
    false_positive_rate: Annotated[float, typer.Option(help="Share of clean pictures that may be flagged.")] = 0.05,
    calibration: Annotated[
        int | None, typer.Option(min=2, help="At most this many held-out pictures; all by default.")
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Guard: flag what is unlike clean pictures; reject it, or repair it. A rejected picture is never counted right."""
    from ..detection import detect
    from ..guard import Guard

    clock, subject = Clock(), attacked(model, data, attack, target, images, seed, device)
    held_out = subject.data.held_out.first(calibration)

    def fit() -> Fitted:
        guard = Guard.calibrate(subject.model, held_out, false_positive_rate, mode, seed)  # type: ignore[arg-type]
        found = detect(guard, subject.model, subject.data.test, subject.trigger, subject.target, seed, progress=True)
        sides = {"clean": found.clean, "triggered": found.triggered}
        shares = {name: guard.flags(scores).float().mean().item() for name, scores in sides.items()}
        areas = {name: rate.value for name, rate in found.areas.items()}
        rows = [
            ("flagged of clean pictures", f"{shares['clean']:.1%}, asked for at most {false_positive_rate:.1%}"),
            ("flagged of triggered pictures", f"{shares['triggered']:.1%}"),
            ("AUROC against all clean pictures", f"{found.auroc.value:.3f}"),
        ]
        if found.auroc_target is not None:
            rows.append((f"AUROC against clean {subject.target}", f"{found.auroc_target.value:.3f}"))
        settings = {"mode": mode, "false_positive_rate": false_positive_rate}
        counts = {"calibration": len(held_out)}
        measured = {f"flagged-{name}": share for name, share in shares.items()} | areas
        return Fitted(guard, settings, counts, measured, rows, key=f";mode={mode}", save=guard.save)

    defend("guard", subject, fit, seed, out, force, as_json, clock)
