"""What every command shares: options, the subject (model, data, attack), and writing results."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..results import Results, scale_of

if TYPE_CHECKING:
    from ..attacks.triggers import Trigger
    from ..data.sets import DataSet
    from ..model import HookedCLIP

Model = Annotated[str, typer.Option(help="Zoo name, folder, file of weights, or open_clip name.")]
Data = Annotated[
    str | None, typer.Option(help="world[:SET], image folder, parquet file, or parquet folder; the card's by default.")
]
Attack = Annotated[str | None, typer.Option(help="Trigger; the one on the model's card by default.")]
Target = Annotated[str | None, typer.Option(help="Target class; the card's or the data's by default.")]
Images = Annotated[int | None, typer.Option(help="At most this many test images.")]
Out = Annotated[Path | None, typer.Option(file_okay=False, help="Folder for results.json and figures.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of data, triggers and fine-tuning.")]
Device = Annotated[str, typer.Option(help="Torch device.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that draw batches ahead, for a fast device.")]
Json = Annotated[bool, typer.Option("--json", help="Print results.json instead of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Evaluate the defense even if the attack did not take.")]


@dataclass
class Subject:
    """A model, the data it is measured on, and the attack on it (None for a clean model).

    Attributes:
        spec: what the data was opened by.
    """

    model: HookedCLIP
    data: DataSet
    trigger: Trigger | None
    target: str | None
    spec: str

    @property
    def attack(self) -> str:
        """The attack's name in metrics."""
        return self.trigger.name if self.trigger is not None else "clean"

    def settings(self) -> dict[str, Any]:
        """For ``results.json``."""
        return {
            "model": self.model.name,
            **({"pretrained": self.model.card["pretrained"]} if "pretrained" in self.model.card else {}),
            "data": self.data.test.name,
            "attack": self.trigger.settings() if self.trigger is not None else None,
            "target": self.target,
            "templates": list(self.data.test.templates),
        }

    def counts(self) -> dict[str, Any]:
        """For ``results.json``: images, classes, and what could not be read."""
        test = self.data.test
        # Parts of one data set share their list.
        skipped = list(dict.fromkeys([*test.skipped, *self.data.held_out.skipped]))
        return {
            "test": len(test),
            "held_out": len(self.data.held_out),
            "classes": len(test.class_names),
            "skipped": len(skipped),
            "skipped_images": skipped,
        }


def open_subject(
    model: str,
    data: str | None,
    attack: str | None,
    target: str | None,
    images: int | None,
    seed: int,
    device: str,
    check_target: bool = True,
    need_target: bool = True,
    trigger_settings: Mapping[str, Any] | None = None,
) -> Subject:
    """Load what a command works on; data, attack and target default to what the model's card says.

    Args:
        check_target: whether the target must be among the classes of the data.
        need_target: whether a trigger needs a target at all.
        trigger_settings: of a trigger that is not the card's, where they differ from its defaults.

    Raises:
        SettingError: the card names no data that can be found from here, and none was given.
    """
    from ..attacks.triggers import make_trigger
    from ..data import open_data
    from ..errors import SettingError
    from .weights import open_model

    hooked = open_model(model, device)
    known = hooked.card.get("attack")
    spec = data or hooked.card.get("data")
    if spec is None or (data is None and scale_of(spec) != "world"):
        raise SettingError(f"{model}: say where its pictures are with --data (its card says {spec!r}).")
    opened = open_data(spec, hooked.visual.image_size, seed, images)
    if attack is not None and not (known and known["trigger"]["name"] == attack):
        trigger = make_trigger(attack, **{"seed": seed, **(trigger_settings or {})})
    else:
        trigger = hooked.trigger
    goal = target or (known["target"] if known else None) or opened.test.target
    if trigger is not None:
        if goal is None and need_target:
            raise SettingError(f"{opened.test.name} has no target class for {trigger.name}: name one with --target.")
        if check_target and goal is not None:
            opened.test.class_index(goal)
    return Subject(hooked, opened, trigger, goal if trigger is not None else None, spec)


def check_device(device: str) -> str:
    """The device, if torch has it; of several processes on GPUs, this one's own.

    Raises:
        SettingError: it has not.
    """
    import torch

    from ..errors import SettingError

    if device == "cuda" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"There is no device {device!r} here ({str(error).splitlines()[0]}); try cpu.") from error
    return device


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        """Seconds passed."""
        return time.perf_counter() - self.start


def finish(results: Results, out: Path | None, as_json: bool, rows: list[tuple[str, str]], notes: str = "") -> None:
    """Write ``results.json`` if a folder was given, and print a table or the JSON."""
    if out is not None:
        results.write(out)
    if as_json:
        sys.stdout.write(json.dumps(results.to_dict(), indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(title=results.name, show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # plain: brackets of a name are no markup
    console.print(table)
    if results.counts.get("skipped"):
        console.print(
            f"{results.counts['skipped']} images could not be read, e.g. {results.counts['skipped_images'][0]}"
        )
    if notes:
        console.print(notes)
