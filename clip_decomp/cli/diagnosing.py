"""What ``clip-decomp attack --diagnose`` looks at and writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results import Results, prefix, scale_of
from .run import Clock, Subject, finish

if TYPE_CHECKING:
    from PIL import Image

    from ..attacks.diagnosis import Diagnosis
    from ..evaluation import Evaluation

#: Stored pictures that a diagnosis looks at.
MANY = 64


def stored(folder: Path | None) -> list[Image.Image]:
    """Some pictures of a folder, as they are."""
    from ..data.images import SUFFIXES, open_image
    from ..errors import DataError

    if folder is None:
        return []
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES] if folder.is_dir() else []
    if not files:
        raise DataError(f"--originals {folder}: there are no pictures below it.")
    return [open_image(file.read_bytes(), str(file)) for file in files[:MANY]]


def diagnose_only(
    subject: Subject, way: dict[str, Any], clock: Clock, seed: int, out: Path | None, as_json: bool
) -> None:
    """Examine a model that carries the attack already, beside the clean model it was made from, if that is here."""
    from ..attacks.diagnosis import diagnose, finding_rows
    from ..errors import ModelError
    from ..models.loading import load

    attacked, test = subject.model, subject.data.test
    try:
        base = load(attacked.card["attack"]["base"])
    except ModelError:
        base = None
    diagnosis = diagnose(attacked, test, subject.trigger, subject.target, base=base, **way)
    found = diagnosis.evaluation
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write(diagnosis, out)
    metrics = found.metrics(prefix(test.name, subject.attack, "none"))
    results = Results("diagnose", scale_of(test.name), seed, subject.settings(), subject.counts(), metrics, clock())
    finish(results, out, as_json, [("model", attacked.name), *rates_of(found), *finding_rows(diagnosis)])


def rates_of(found: Evaluation) -> list[tuple[str, str]]:
    """Rows of a table."""
    rows = [("clean accuracy", str(found.clean_accuracy))]
    if found.attack_success_rate is not None:
        rows.append(("attack success rate", str(found.attack_success_rate)))
        rows.append(("poisoned accuracy", str(found.poisoned_accuracy)))
    return rows


def write(diagnosis: Diagnosis, folder: Path) -> None:
    """``diagnosis.csv`` in a folder."""
    diagnosis.to_frame().to_csv(folder / "diagnosis.csv", index=False)
