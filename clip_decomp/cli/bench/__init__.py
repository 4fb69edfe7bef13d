"""``clip-decomp bench``: speed and memory, measured side by side in one run on this machine."""

from __future__ import annotations

import typer

from . import decomposing, generator, methods

app = typer.Typer(help="Speed, measured side by side on this machine.", no_args_is_help=True)
for command in (generator.generator, decomposing.decompose, methods.textspan, methods.ablation, methods.mmd):
    app.command()(command)
