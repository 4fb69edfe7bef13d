"""The defenses' commands: ``clip-decomp audit``, ``defend``, ``detect``, ``guard``, ``export`` and ``bench``."""

from __future__ import annotations

import typer

from clip_decomp.cli.bench import app as _bench

from . import audit, bench, bench_guard, bench_server, decomp, exported, few_shot, fine_tuned, guard, guarded, rivals

_defend = typer.Typer(help="Take the backdoor out of a model, and measure before and after.", no_args_is_help=True)
_detect = typer.Typer(help="Score inputs, and measure how well triggered ones stand out.", no_args_is_help=True)
_guard = typer.Typer(help="Watch a model at inference, and serve it guarded.", no_args_is_help=True)
_defend.command("decomp-rep")(decomp.decomp_rep)
_defend.command("rvpt")(few_shot.rvpt)
_defend.command("vpt")(few_shot.vpt)
_defend.command("cbpt")(few_shot.cbpt)
_defend.command("linear-probe")(few_shot.linear_probe)
_defend.command("guard")(guarded.guarded)
_defend.command("finetune", help="FT: fine-tune the whole model on clean pairs with the CLIP loss.")(
    fine_tuned.command("FineTune")
)
_defend.command(
    "cleanclip",
    help="CleanCLIP: fine-tune the whole model on clean pairs, with self-supervision of pictures and of captions.",
)(fine_tuned.command("CleanCLIP"))
_detect.command("decomp-det")(decomp.decomp_det)
_detect.command("strip")(rivals.strip)
_detect.command("scale-up")(rivals.scale_up)
_detect.command("teco")(rivals.teco)
_detect.command("backdoor-ids")(rivals.backdoor_ids)
_guard.command("calibrate")(guard.calibrate)
_guard.command("serve")(guard.serve)
_bench.command("rvpt")(bench.rvpt)
_bench.command("cbpt")(bench.cbpt)
_bench.command("guard")(bench_guard.guard)
_bench.command("guard-server")(bench_server.guard_server)


def register(app: typer.Typer) -> None:
    """Add the defenses' commands."""
    app.command("audit")(audit.audit)
    app.command("export")(exported.export)
    app.add_typer(_defend, name="defend")
    app.add_typer(_detect, name="detect")
    app.add_typer(_guard, name="guard")


@_defend.callback()
def _defend_group() -> None:
    """Take the backdoor out of a model, and measure before and after."""


@_detect.callback()
def _detect_group() -> None:
    """Score inputs, and measure how well triggered ones stand out."""
