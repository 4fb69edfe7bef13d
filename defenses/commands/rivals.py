"""Detectors that only call the model, on the command line: STRIP, SCALE-UP, TeCo and BackdoorIDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Subject, Target

from .detect import FittedDetector, detect
from .subjects import attacked

if TYPE_CHECKING:
    from ..black_box import BlackBoxDetector

Calibration = Annotated[int, typer.Option(help="Held-out clean pictures that set the cutoff, at most.")]


def _fitted(subject: Subject, detector: BlackBoxDetector) -> Callable[[], FittedDetector]:
    def fit() -> FittedDetector:
        detector.fit(subject.model, subject.data.held_out)
        return FittedDetector(detector, detector.settings() | {"cutoff": detector.cutoff_})

    return fit


def strip(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    blends: Annotated[int, typer.Option(help="Clean pictures that every input is blended with.")] = 64,
    weight: Annotated[float, typer.Option(help="Weight of the input in a blend.")] = 0.5,
    calibration: Calibration = 100,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """STRIP: blend inputs with clean pictures; what stays sure of its class is suspicious."""
    from ..strip import STRIP

    detector, clock = STRIP(blends, weight, calibration, seed=seed), Clock()
    subject = attacked(model, data, attack, target, images, seed, device)
    detect("strip", subject, _fitted(subject, detector), seed, out, force, as_json, clock)


def scale_up(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    variant: Annotated[str, typer.Option(help="data-limited or data-free.")] = "data-limited",
    factor: Annotated[list[float] | None, typer.Option(help="Factor of pixels (repeat); 3, 5, 7, 9, 11.")] = None,
    calibration: Calibration = 1000,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """SCALE-UP: amplify pixels; what keeps its class, and more so than its class usually does, is suspicious."""
    from ..scale_up import ScaleUp

    detector, clock = ScaleUp(variant, tuple(factor or (3, 5, 7, 9, 11)), calibration, seed=seed), Clock()
    subject = attacked(model, data, attack, target, images, seed, device)
    detect("scale-up", subject, _fitted(subject, detector), seed, out, force, as_json, clock)


def teco(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    corruption: Annotated[list[str] | None, typer.Option(help="Corruption (repeat); all twelve if unset.")] = None,
    calibration: Calibration = 100,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """TeCo: corrupt inputs; what gives way to some corruptions and not to others is suspicious."""
    from ..corruptions import CORRUPTIONS
    from ..teco import TeCo

    detector, clock = TeCo(tuple(corruption or CORRUPTIONS), calibration, seed=seed), Clock()
    subject = attacked(model, data, attack, target, images, seed, device)
    detect("teco", subject, _fitted(subject, detector), seed, out, force, as_json, clock)


def backdoor_ids(
    model: Model,
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    steps: Annotated[int, typer.Option(help="Masked copies of an input.")] = 20,
    most: Annotated[float, typer.Option(help="Share that the last mask covers.")] = 0.95,
    cell: Annotated[int | None, typer.Option(help="Side of masked squares in pixels; an 8th of the picture's.")] = None,
    eps: Annotated[float | None, typer.Option(help="DBSCAN's radius; calibrated if unset.")] = None,
    min_samples: Annotated[int, typer.Option(help="DBSCAN's least size of a core's neighborhood.")] = 1,
    calibration: Calibration = 100,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """BackdoorIDS: mask more and more of an input; an embedding that jumps on the way is suspicious."""
    from ..backdoor_ids import BackdoorIDS

    detector, clock = BackdoorIDS(steps, most, cell, eps, min_samples, calibration, seed=seed), Clock()
    subject = attacked(model, data, attack, target, images, seed, device)
    detect("backdoor-ids", subject, _fitted(subject, detector), seed, out, force, as_json, clock)
