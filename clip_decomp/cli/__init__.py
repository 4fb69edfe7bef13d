"""The command line. Commands import what they need when they run, so ``--help`` answers at once.

Packages above the core add their commands through the entry point group ``clip_decomp.commands``; each entry is a
function that takes the typer application.
"""

from __future__ import annotations

import logging
import sys
from importlib.metadata import entry_points

import typer

from . import commands, weights

GROUP = "clip_decomp.commands"


def application() -> typer.Typer:
    """The typer application with every registered command."""
    app = typer.Typer(
        name="clip-decomp",
        help="Read a CLIP as a sum of its parts, find the backdoor in it, and take it out.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    commands.register(app)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        entry.load()(app)
    weights.offer(app)
    return app


def main() -> None:
    """Entry point: errors a user can cause are one line, interrupts are quiet."""
    from ..errors import ClipDecompError

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("clip_decomp").setLevel(logging.INFO)
    try:
        application()()
    except ClipDecompError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        sys.exit(130)
