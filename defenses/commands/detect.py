"""What the commands that detect triggered inputs share: fit a detector, measure it, and say how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_decomp.cli.run import Clock, Subject, finish
from clip_decomp.results import Results, prefix, scale_of

from .subjects import undefended

if TYPE_CHECKING:
    from torch import Tensor

    from clip_decomp.evaluation import Rate

    from ..detection import Detector


@dataclass
class FittedDetector:
    """A detector that was fitted, and what there is to say about it.

    Attributes:
        settings: further ones of ``results.json``.
        key: what the names of its metrics carry, as ``;name=value``.
    """

    detector: Detector
    settings: dict[str, Any]
    key: str = ""


@dataclass
class Timed:
    """A detector with a stopwatch.

    Attributes:
        seconds: spent on scoring so far.
        images: scored so far.
    """

    detector: Detector
    seconds: float = field(default=0.0, init=False)
    images: int = field(default=0, init=False)

    def score(self, images: Tensor) -> Tensor:
        """The detector's score."""
        start = time.perf_counter()
        found = self.detector.score(images).cpu()
        self.seconds, self.images = self.seconds + time.perf_counter() - start, self.images + len(images)
        return found


def detect(
    name: str,
    subject: Subject,
    fit: Callable[[], FittedDetector],
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    clock: Clock,
) -> None:
    """Measure a model, fit a detector to it, and measure how well triggered pictures stand out.

    Raises:
        AttackFailed: the attack did not take, and nobody insists.
    """
    from ..detection import detect as measure

    before, test = undefended(subject, force), subject.data.test
    fitted = fit()
    timed = Timed(fitted.detector)
    found = measure(timed, subject.model, test, subject.trigger, subject.target, seed, progress=True)
    each = timed.seconds / timed.images
    named = prefix(test.name, subject.attack, name)
    metrics = before.metrics(prefix(test.name, subject.attack, "none"))
    scores = found.metrics(named) | {f"{named}/seconds-per-image": each}
    metrics |= {key + fitted.key: value for key, value in scores.items()}
    counts = {**subject.counts(), "target_clean": len(found.target_clean), "triggered": len(found.triggered)}
    settings = subject.settings() | fitted.settings
    results = Results(f"detect {name}", scale_of(test.name), seed, settings, counts, metrics, clock())
    rows = [
        ("attack success rate, undefended", str(before.attack_success_rate)),
        ("AUROC against all clean pictures", _area(found.auroc)),
        (f"AUROC against clean {subject.target}", _area(found.auroc_target)),
        ("seconds for 1,000 pictures", f"{1000 * each:.1f}"),
    ]
    finish(results, out, as_json, rows)


def _area(rate: Rate | None) -> str:
    if rate is None:
        return "no test picture is of this class"
    return f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}] ({rate.count} in the smaller group)"
