"""What the evaluator measured, over all pictures and for each class, and the sentence that says on what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .rates import Rate, Tally, interval_metrics

if TYPE_CHECKING:
    import pandas as pd

_NOTHING = Rate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class ClassTallies:
    """What was counted for one class; None where nothing was.

    Attributes:
        clean: clean pictures of the class that are given it.
        success: triggered pictures of the class that are given the target; none where the class is the target itself.
        poisoned: triggered pictures of the class that are given it.
    """

    name: str
    clean: Tally | None
    success: Tally | None
    poisoned: Tally | None


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator measured; the attack's numbers are None without a trigger.

    Attributes:
        templates: of the prompts for clean pictures.
        skipped: a line for each picture of the data set's source that was found unreadable so far.
        split: what part of the data it was, if the caller said.
        left_out: pictures that could not be read.
        word: what triggered pictures' prompts start with.
        asr_includes_target: triggered pictures of the target class count (the paper's convention).
        per_class: one entry a class, in the data set's order.
    """

    clean_accuracy: Rate
    attack_success_rate: Rate | None
    poisoned_accuracy: Rate | None
    data: str
    target: str | None
    templates: tuple[str, ...]
    skipped: tuple[str, ...]
    split: str | None = None
    left_out: int = 0
    word: str = ""
    asr_includes_target: bool = False
    per_class: tuple[ClassTallies, ...] = ()

    @property
    def triggered_templates(self) -> tuple[str, ...]:
        """Templates of the prompts for triggered pictures."""
        return tuple(self.word + template for template in self.templates)

    @property
    def measured(self) -> str:
        """Which pictures, how many, under which prompts, and what ASR counts: one sentence."""
        where = f"{self.data} ({self.split} split)" if self.split else self.data
        lost = f", and {self.left_out:,} that could not be read" if self.left_out else ""
        prompts = f"prompts: {_quoted(self.templates)}"
        if self.word:
            prompts += f", of triggered pictures {_quoted(self.triggered_templates)}"
        parts = [f"{self.clean_accuracy.count:,} pictures of {where}{lost}", prompts]
        if self.attack_success_rate is not None:
            counted = f"{self.attack_success_rate.count:,} triggered pictures"
            if self.asr_includes_target:
                parts.append(f"ASR counts all {counted}, those of the target, {self.target!r}, included")
            else:
                parts.append(f"ASR counts the {counted} whose true class is not the target, {self.target!r}")
        return "; ".join(parts) + "."

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``: ``<prefix>/ca``, ``/asr``, ``/pa`` and their interval ends."""
        found = {"ca": self.clean_accuracy, "asr": self.attack_success_rate, "pa": self.poisoned_accuracy}
        return interval_metrics(prefix, {measure: share for measure, share in found.items() if share is not None})

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a class: shares, interval ends and numbers of pictures."""
        import pandas as pd

        columns: dict[str, list] = {"class": [each.name for each in self.per_class]}
        for measure, field in (("ca", "clean"), ("asr", "success"), ("pa", "poisoned")):
            tallies = [getattr(each, field) for each in self.per_class]
            shares = [tally.rate if tally is not None else _NOTHING for tally in tallies]
            columns[f"{measure}_pictures"] = [share.count for share in shares]
            for name, key in ((measure, "value"), (f"{measure}_low", "low"), (f"{measure}_high", "high")):
                columns[name] = [getattr(share, key) for share in shares]
        return pd.DataFrame(columns)

    def _repr_html_(self) -> str:
        table = self.to_frame().to_html(index=False, na_rep="", float_format=lambda x: f"{x:.3f}")
        return f"<p>{escape(self.measured)}</p>{table}"


def _quoted(templates: Sequence[str]) -> str:
    return repr(templates[0]) if len(templates) == 1 else f"{len(templates)} templates such as {templates[0]!r}"
