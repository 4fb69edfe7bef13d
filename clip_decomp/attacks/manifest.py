"""Which pairs were poisoned and how, as files: ``manifest.csv``, a line a pair, and ``manifest.json``, its header.

Example:
    >>> from clip_decomp.attacks.triggers import BadNet
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> header = manifest_header(PoisonedPairs(WorldPairs(), BadNet(), "banana", 0), steps=1, size=8)
    >>> header["target"], header["stage"], header["pairs"]
    ('banana', 'input', None)
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.captioned import CaptionedPairs
from ..data.pairs import PairStream
from ..errors import SettingError
from .poison import Poisoned, PoisonedPairs

COLUMNS = ("row", "source", "class", "old_caption", "new_caption", "attack", "stage")


def write_manifest(
    poisoned: PoisonedPairs,
    folder: Path,
    names: Sequence[str] = (),
    steps: int | None = None,
    size: int | None = None,
) -> Path:
    """Write both files into ``folder`` and return the path of ``manifest.csv``.

    Args:
        names: of the classes in the first column of the stream's facts.
        steps, size: the batches that the manifest of an endless stream covers; a finite data set's covers all of it.

    Raises:
        SettingError: the stream has no end, and steps and size are not given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = poisoned.manifest(steps, size) if poisoned.length is None else poisoned.manifest()
    header = manifest_header(poisoned, steps, size) | {"poisoned": len(lines)}
    path = folder / "manifest.csv"
    with path.open("w", encoding="utf-8", newline="") as opened:
        table = csv.writer(opened)
        table.writerow(COLUMNS)
        table.writerows(_cells(poisoned, line, names) for line in lines)
    (folder / "manifest.json").write_text(json.dumps(header, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def manifest_header(poisoned: PoisonedPairs, steps: int | None = None, size: int | None = None) -> dict[str, Any]:
    """How a stream is poisoned: all that is the same for every pair.

    ``captions_sha256`` identifies the clean pairs; ``skipped`` lists those that could not be used.
    """
    clean, trigger = poisoned.clean, poisoned.trigger
    return {
        "attack": trigger.name,
        "trigger": trigger.settings(),
        "clean_label": trigger.clean_label,
        "word": trigger.word,
        "target": poisoned.target,
        "captions": "own" if trigger.clean_label else poisoned.captions or trigger.captions,
        "stage": poisoned.stage,
        "rate": None if poisoned.count is not None else poisoned.rate,
        "count": poisoned.count,
        "seed": poisoned.seed,
        "source": clean.table.name if isinstance(clean, CaptionedPairs) else type(clean).__name__,
        "pairs": clean.length,
        "steps": None if clean.length is not None else steps,
        "batch_size": None if clean.length is not None else size,
        "captions_sha256": captions_hash(clean, steps, size),
        "skipped": list(poisoned.skipped),
    }


def captions_hash(clean: PairStream, steps: int | None = None, size: int | None = None) -> str:
    """SHA-256 over ``row<tab>caption`` lines of a finite data set by row, or of the first batches of an endless one.

    Raises:
        SettingError: the stream has no end, and steps and size are not given.
    """
    if clean.length is not None:
        steps, size = 1, clean.length
    if steps is None or size is None:
        raise SettingError("This stream has no end: say how many steps of which size the manifest covers.")
    digest = hashlib.sha256()
    for step in range(steps):
        described = clean.describe(step, size)
        for place in described.rows.argsort(stable=True).tolist():
            digest.update(f"{int(described.rows[place])}\t{described.captions[place]}\n".encode())
    return digest.hexdigest()


def _cells(poisoned: PoisonedPairs, line: Poisoned, names: Sequence[str]) -> tuple[str | int, ...]:
    clean = poisoned.clean
    source = clean.source(line.row) if isinstance(clean, CaptionedPairs) else ""
    shown = names[line.fact] if 0 <= line.fact < len(names) else ""
    return line.row, source, shown, line.was, line.caption, poisoned.trigger.name, poisoned.stage
