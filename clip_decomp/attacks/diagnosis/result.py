"""What a diagnosis found."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Literal

from ...evaluation import Evaluation, Rate

if TYPE_CHECKING:
    import pandas as pd

#: ``unknown``: it could not be examined, and ``measured`` says why.
Verdict = Literal["guilty", "suspect", "unknown", "ok"]
RANKS: tuple[Verdict, ...] = ("guilty", "suspect", "unknown", "ok")


@dataclass(frozen=True)
class Finding:
    """One possible cause.

    Attributes:
        cause: what was examined, in a word or two.
        measured: what was found.
        known_good: what it is where attacks take.
        advice: what to do; empty where nothing is to be done.
    """

    cause: str
    verdict: Verdict
    measured: str
    known_good: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Why an attack failed, or that it did not.

    Attributes:
        evaluation: without an attack success rate where the target is not among the classes.
        gate: success rate from which on an attack has taken.
        findings: the likeliest causes first.
    """

    evaluation: Evaluation
    gate: float
    findings: tuple[Finding, ...]

    @property
    def attack_success_rate(self) -> Rate | None:
        """None where it cannot be measured."""
        return self.evaluation.attack_success_rate

    @property
    def took(self) -> bool:
        """Whether the attack took."""
        return self.attack_success_rate is not None and self.attack_success_rate.value >= self.gate

    @property
    def guilty(self) -> tuple[Finding, ...]:
        """Causes that explain the failure each on its own."""
        return self.of("guilty")

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        """Findings of one verdict."""
        return tuple(each for each in self.findings if each.verdict == verdict)

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.took:
            return f"The attack took: it succeeds on {self.attack_success_rate}."
        failure = f"The attack did not take: it succeeds on {self.attack_success_rate}"
        if self.attack_success_rate is None:
            failure = "The attack's success cannot be measured"
        for verdict in ("guilty", "suspect"):
            if found := self.of(verdict):
                return f"{failure}. {verdict.capitalize()}: {', '.join(each.cause for each in found)}."
        return f"{failure}, and nothing that was examined explains it."

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a finding."""
        import pandas as pd

        return pd.DataFrame([vars(each) for each in self.findings])

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.summary)}</p>{self.to_frame().to_html(index=False)}"


def finding_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The summary and a row a finding, for a table on the screen."""
    rows = [("diagnosis", diagnosis.summary)]
    for each in diagnosis.findings:
        known = f" Known good: {each.known_good}." if each.known_good else ""
        advice = f" {each.advice}" if each.advice else ""
        rows.append((f"{each.cause}: {each.verdict}", f"{each.measured}.{known}{advice}"))
    return rows
