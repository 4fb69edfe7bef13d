"""The evaluator's table of classes, on the screen and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation import Evaluation
    from ..evaluation.rates import Tally

FILE = "per_class.csv"


def write_classes(found: Evaluation, folder: Path) -> Path:
    """Write ``per_class.csv``: a line a class, with numbers of pictures and interval ends; nothing where none count."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    found.to_frame().to_csv(file, index=False, float_format="%.6g")
    return file


def show_classes(found: Evaluation) -> None:
    """Print a line a class."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "pictures", "clean accuracy", title="percent, with 95 % intervals", title_justify="left")
    if found.attack_success_rate is not None:
        table.add_column("ASR")
        table.add_column("poisoned accuracy")
    for each in found.per_class:
        tallies = (each.clean, each.success, each.poisoned)[: len(table.columns) - 2]
        pictures = str(each.clean.count if each.clean is not None else 0)
        table.add_row(Text(each.name), pictures, *(Text(_cell(tally)) for tally in tallies))
    Console().print(table)


def _cell(tally: Tally | None) -> str:
    if tally is None:
        return ""
    share = tally.rate
    return f"{100 * share.value:.0f} [{100 * share.low:.0f}, {100 * share.high:.0f}]"
