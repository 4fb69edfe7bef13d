"""What a server answers, and how it comes about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, Field
from torch import Tensor

from ..evidence import Evidence as Explanation
from ..evidence import tail_probability
from ..guard import Guard, Mode, Verdict
from .pictures import Picture

#: Heads that evidence names.
HEADS = 3


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str = Field(description="A sentence that says what is wrong.")


class ClassProbability(BaseModel):
    """A class and its zero-shot probability."""

    name: str
    probability: float


class DeviantHead(BaseModel):
    """A head that is unlike itself on clean images."""

    name: str = Field(description="Layer and head, zero-based.", examples=["L11H3"])
    deviation: float | None = Field(description="In standard deviations of clean log-distances.")
    tail_probability: float | None = Field(description="How often a clean image deviates as far.")
    token_map: list[list[float]] | None = Field(
        description="What each patch adds to the head's squared distance, by row; with explain=true alone."
    )


class Evidence(BaseModel):
    """Why an image was flagged."""

    heads: list[DeviantHead] = Field(description="The most deviant heads, the farthest first.")
    of_heads: float | None = Field(description="Deviation of all heads together.")
    of_mlps: float | None = Field(description="Deviation of all MLPs together.")


class Answer(BaseModel):
    """What the guard says of an image."""

    flagged: bool = Field(description="Whether the image is unlike the clean images of the calibration.")
    rejected: bool = Field(description="Flagged, and given no classes: the guard's mode is reject.")
    repaired: bool = Field(description="Flagged, and encoded without the heads that deviate: its mode is repair.")
    p_value: float = Field(description="Conformal p-value; small is suspicious.")
    score: float | None = Field(description="Higher is more suspicious; null if it is not finite.")
    mode: Mode
    false_positive_rate: float = Field(description="Share of clean images that may be flagged.")
    classes: Annotated[
        list[ClassProbability] | None,
        Field(description="The most probable classes; null if the image is rejected."),
    ]
    evidence: Evidence | None = Field(description="Of flagged images.")


class Answerer:
    """Answers for batches of pictures.

    Args:
        vectors: one for each class name.
        top: how many classes an answer names.
    """

    def __init__(self, guard: Guard, class_names: Sequence[str], vectors: Float[Tensor, "cls d_embed"], top: int):
        self.guard, self.class_names, self.vectors = guard, tuple(class_names), vectors
        self.top = min(top, len(self.class_names))

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Picture]) -> list[Answer]:
        """An answer for every picture."""
        model = self.guard.model_
        pixels = torch.from_numpy(np.stack([each.pixels for each in pictures])).to(model.device)
        images = model.normalize(pixels.float() / 255)
        verdict = self.guard(images)
        wanted = verdict.flagged & torch.tensor([each.explain for each in pictures], device=model.device)
        explained = self.guard.explain(images, replace(verdict, flagged=wanted), HEADS) if wanted.any() else {}
        unit = F.normalize(verdict.features.float(), dim=-1)
        likely = (model.logit_scale * unit @ self.vectors.T).softmax(-1).topk(self.top)
        return [self._answer(k, verdict, likely.values[k], likely.indices[k], explained) for k in range(len(pictures))]

    def _answer(
        self, place: int, verdict: Verdict, values: Tensor, labels: Tensor, explained: dict[int, Explanation]
    ) -> Answer:
        flagged, mode = bool(verdict.flagged[place]), self.guard.mode
        classes = None
        if values.isfinite().all():
            ranked = zip(labels.tolist(), values.tolist(), strict=True)
            classes = [ClassProbability(name=self.class_names[label], probability=value) for label, value in ranked]
        return Answer(
            flagged=flagged,
            rejected=flagged and mode == "reject",
            repaired=flagged and mode == "repair",
            p_value=float(verdict.p_values[place]),
            score=_finite(verdict.deviations.score[place]),
            mode=mode,
            false_positive_rate=self.guard.false_positive_rate,
            classes=classes,
            evidence=_evidence(place, verdict, explained.get(place)) if flagged else None,
        )


def _evidence(place: int, verdict: Verdict, explained: Explanation | None) -> Evidence:
    """The heads are named by the deviations at hand; maps come from another pass."""
    found, heads = verdict.deviations, []
    if explained is not None:
        for each in explained.heads:
            heads.append(_head(each.name, each.deviation, each.tokens.tolist()))
    else:
        each = found.heads[place]
        largest = each.flatten().topk(min(HEADS, each.numel()))
        for unit, value in zip(largest.indices.tolist(), largest.values.tolist(), strict=True):
            layer, head = divmod(unit, each.shape[1])
            heads.append(_head(f"L{layer}H{head}", value, None))
    return Evidence(heads=heads, of_heads=_finite(found.of_heads[place]), of_mlps=_finite(found.of_mlps[place]))


def _head(name: str, deviation: float, tokens: list[list[float]] | None) -> DeviantHead:
    tail = tail_probability(deviation)
    finite = tokens is None or all(math.isfinite(value) for row in tokens for value in row)
    return DeviantHead(
        name=name,
        deviation=_finite(deviation),
        tail_probability=_finite(tail),
        token_map=tokens if finite else None,
    )


def _finite(value: float | Tensor) -> float | None:
    """JSON has no other numbers."""
    number = float(value)
    return number if math.isfinite(number) else None
