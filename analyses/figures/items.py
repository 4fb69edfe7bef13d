"""What a figure of a paper is, and what drawing it gives.

Example:
    >>> verdict = Verdict("an attack lives in heads", "ASR without any head < half", False, "96 % of 97 % left")
    >>> verdict.sentence
    'An attack lives in heads: does not appear (96 % of 97 % left).'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd
import plotly.graph_objects as go

if TYPE_CHECKING:
    from .bench import Bench


#: What attacks are called.
LABELS = {
    "badnet": "BadNet",
    "blended": "Blended",
    "sig": "SIG",
    "wanet": "WaNet",
    "issba": "ISSBA",
    "label-consistent": "Label-Consistent",
    "reflection": "Reflection",
    "kitty": "Kitty",
    "trojvqa": "TrojVQA",
    "badclip": "BadCLIP (Liang et al.)",
}


@dataclass(frozen=True)
class Verdict:
    """Whether a claim of a paper appears, by a stated rule.

    Attributes:
        rule: what decides, in words.
        evidence: the numbers that decided.
    """

    claim: str
    rule: str
    appears: bool
    evidence: str

    @property
    def sentence(self) -> str:
        """For pages and tables."""
        verdict = "appears" if self.appears else "does not appear"
        return f"{self.claim[0].upper()}{self.claim[1:]}: {verdict} ({self.evidence.rstrip('.')})."


@dataclass
class Drawn:
    """A figure as it was drawn.

    Attributes:
        text: what it shows, in sentences.
        figures: caption and figure.
        tables: caption and table.
        metrics: by the names of ``results.json``.
    """

    text: str
    figures: list[tuple[str, go.Figure]] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """A figure or table of a paper.

    Attributes:
        name: on the command line and of its folder.
        source: paper, figure or table.
        attacks: whose models it is drawn from; those that are missing or did not take are left out.
        draw: from what figures share and the attacks that are there.
    """

    name: str
    title: str
    source: str
    attacks: tuple[str, ...]
    draw: Callable[[Bench, tuple[str, ...]], Drawn]
