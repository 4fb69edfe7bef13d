"""What was found out about a head: the numbers and pictures of its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from ..evaluation import Rate, interval_metrics
from ..methods.mmd import MMDTest
from ..methods.roles import RoleChange, property_shares
from ..methods.textspan import TextSpan
from ..texts import TextPool

if TYPE_CHECKING:
    import pandas as pd

#: Why a text is on the page: chosen for clean pictures, for triggered ones only, the attack's target, or asked for.
Source = Literal["clean", "triggered", "target", "given"]
Side = Literal["clean", "triggered"]


@dataclass(frozen=True)
class Shown:
    """A picture, as one text sees it through the head.

    Attributes:
        number: its place in the data.
        push: how far the head pushes it toward the text: dot product of its contribution and the unit text vector.
        token_map: the part of each patch.
        rest: the part of the class token and of prompts; with the patches it adds up to ``push``.
    """

    number: int
    class_name: str
    push: float
    token_map: Float[np.ndarray, "row column"]
    rest: float


@dataclass(frozen=True)
class Pushes:
    """The pictures that the head pushes most and least toward a text, strongest first; mean and spread over all."""

    most: tuple[Shown, ...]
    least: tuple[Shown, ...]
    mean: float
    std: float

    @property
    def strongest(self) -> Float[np.ndarray, " shown"]:
        """The part of the strongest patch, of either sign, of every picture shown."""
        return np.array([np.abs(shown.token_map).max() for shown in (*self.most, *self.least)])


@dataclass(frozen=True)
class TextView:
    """A text of the page and its pictures."""

    text: str
    source: Source
    clean: Pushes
    triggered: Pushes | None

    def side(self, name: Side) -> Pushes | None:
        """Its clean or its triggered pictures."""
        return self.clean if name == "clean" else self.triggered


@dataclass(frozen=True)
class Ablated:
    """What the model does with the head as it is (``none``), or replaced by its mean over held-out clean pictures."""

    effect: Literal["none", "direct", "total"]
    clean_accuracy: Rate
    attack_success_rate: Rate | None


@dataclass(frozen=True)
class HeadReport:
    """One head of one model on one data set; without a trigger there is nothing about an attack.

    Attributes:
        name: ``L11H3``; ``model``, ``data``: names.
        count, held_out: pictures read from the data, and those that the means were taken from.
        skipped: a line for every picture that could not be read.
        trigger: its settings.
        pool: the texts that the head's were chosen from.
        explained: texts of clean pictures; ``roles`` has those of triggered ones too.
        mmd: between the contributions to clean and to triggered pictures.
        ablated: the model as it is, then direct and total effect of the head.
        views: pictures for each text.
        pictures: data URIs by kind of picture and number.
        norm: mean length of the representations of clean pictures, for scale.
    """

    name: str
    model: str
    data: str
    count: int
    held_out: int
    skipped: tuple[str, ...]
    trigger: Mapping[str, Any] | None
    target: str | None
    seed: int
    pool: TextPool = field(repr=False)
    explained: TextSpan = field(repr=False)
    roles: RoleChange | None = field(repr=False)
    mmd: MMDTest | None = field(repr=False)
    ablated: tuple[Ablated, ...] = field(repr=False)
    views: tuple[TextView, ...] = field(repr=False)
    pictures: Mapping[tuple[Side, int], str] = field(repr=False)
    norm: float = field(repr=False)

    @property
    def sides(self) -> tuple[Side, ...]:
        """The kinds of pictures there are."""
        return ("clean",) if self.roles is None else ("clean", "triggered")

    def span(self, side: Side) -> TextSpan:
        """The head's texts on one kind of pictures."""
        if side == "clean" or self.roles is None:
            return self.explained
        return self.roles.triggered

    def properties(self, side: Side) -> dict[str, float]:
        """Share of each property in what the head's texts explain; they add up to 1."""
        return property_shares(self.span(side), self.pool)

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a text of the head, clean ones first."""
        import pandas as pd

        rows = []
        for side in self.sides:
            span = self.span(side)
            for index, share in zip(span.indices.tolist(), span.explained_variance_ratio.tolist(), strict=True):
                text, name = self.pool.texts[index], self.pool.properties[index]
                rows.append({"pictures": side, "text": text, "property": name, "explained_variance_ratio": share})
        return pd.DataFrame(rows)

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``; MMD is squared and not multiplied."""
        part = f"component={self.name}"
        found: dict[str, float] = {}
        for each in self.ablated:
            rates = {"ca": each.clean_accuracy, "asr": each.attack_success_rate}
            known = {measure: share for measure, share in rates.items() if share is not None}
            if each.effect == "none":
                found |= interval_metrics(prefix, known)
            else:
                key = f"{part};effect={each.effect}"
                found |= {f"{prefix}/{measure};{key}": share.value for measure, share in known.items()}
        for side in self.sides:
            key = f"{part};pictures={side}"
            found |= {f"{prefix}/property;{key};name={name}": s for name, s in self.properties(side).items()}
            found[f"{prefix}/explained;{key}"] = float(self.span(side).explained_variance_ratio.sum())
        if self.roles is not None:
            roles = self.roles
            for name, value in (("similarity", roles.similarity), ("kept", roles.kept), ("threshold", roles.threshold)):
                found[f"{prefix}/role-{name};{part}"] = value
            found[f"{prefix}/role-changed;{part}"] = float(roles.changed)
        if self.mmd is not None:
            found[f"{prefix}/mmd;{part}"] = self.mmd.value / self.mmd.scale
            found[f"{prefix}/mmd-p;{part}"] = self.mmd.p_value
        return found

    def html(self) -> str:
        """The page: one file, nothing is loaded from anywhere."""
        from .page import render

        return render(self)

    def save(self, path: str | Path) -> Path:
        """Write the page in one step: a reader never finds half of it."""
        from ..report import write_page

        return write_page(Path(path), self.html())

    def _repr_html_(self) -> str:
        # A frame of its own: styles and ids of two reports in one notebook must not meet.
        return (
            f'<iframe title="{escape(self.name)}" srcdoc="{escape(self.html())}" sandbox="allow-scripts" '
            'style="width: 100%; height: 56rem; border: 1px solid #e3e6ea"></iframe>'
        )
