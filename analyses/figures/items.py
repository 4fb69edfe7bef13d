"""What a figure of a paper is, and what drawing it gives.

Example:
    >>> verdict = Verdict("an attack lives in heads", "ASR without any head < half", False, "96 % of 97 % left")
    >>> verdict.sentence
    'An attack lives in heads: does not appear (96 % of 97 % left).'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import plotly.graph_objects as go

if TYPE_CHECKING:
    from .bench import Bench
    from .trainings import Training


#: What attacks are called.
_LABELS = {
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


_MEASURES = {"asr": "ASR", "ca": "clean accuracy", "pa": "poisoned accuracy", "auroc": "AUROC"}
#: What families of models are called that are not the main one.
_FAMILIES = {"resnet": "ResNet", "patch-16": "patches of 16 pixels"}


def called(attack: str) -> str:
    """What an attack is called.

    Example:
        >>> called("badnet"), called("resnet/badnet"), called("Caltech-101/badnet")
        ('BadNet', 'BadNet, ResNet', 'BadNet, Caltech-101')
    """
    family, _, name = attack.rpartition("/")
    return f"{_LABELS[name]}, {_FAMILIES.get(family, family)}" if family else _LABELS[name]


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


class Measured(NamedTuple):
    """A number of ours that has a place in a paper's table; see :mod:`.papers`.

    Attributes:
        case: the defense or setting, as the paper's table says it.
        data: the paper's data set whose part ours play.
        value: in the paper's unit, percent of rates.
    """

    attack: str
    case: str
    data: str
    measure: str
    value: float


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
    measured: list[Measured] = field(default_factory=list)

    def put(self, attack: str, case: str, data: str, **shares: float) -> None:
        """Note numbers that a paper's table has, too.

        Args:
            attack: the model's name; one of another tower than the main one is called so, one that aims at another data
                set is told by ``data``.
            shares: ``asr``, ``ca``, ``pa`` or ``auroc``, of 1.
        """
        family, _, word = attack.rpartition("/")
        name = called(attack) if family in _FAMILIES else _LABELS.get(word, attack)
        for key, share in shares.items():
            self.measured.append(Measured(name, case, data, _MEASURES[key], share if key == "auroc" else 100 * share))


@dataclass(frozen=True)
class Item:
    """A figure or table of a paper.

    Attributes:
        name: on the command line and of its folder.
        source: paper, figure or table.
        attacks: whose models it is drawn from; those that are missing or did not take are left out.
        draw: from what figures share and the attacks that are there.
        trainings: of defenses; attacks that have none that is finished are left out.
        further: trainings that it shows where they are finished, and does without otherwise.
        models: further ones that it needs.
        note: where settings are not the paper's, what they are.
    """

    name: str
    title: str
    source: str
    attacks: tuple[str, ...]
    draw: Callable[[Bench, tuple[str, ...]], Drawn]
    trainings: tuple[Training, ...] = ()
    further: tuple[Training, ...] = ()
    models: tuple[str, ...] = ()
    note: str = ""
