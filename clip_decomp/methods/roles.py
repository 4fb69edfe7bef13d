"""Does a component keep its role under a trigger? TEXTSPAN of clean pictures against TEXTSPAN of triggered ones.

The text similarity of He et al. (2025), figure 3, is not defined there; here it is the mean best-match cosine between
the embeddings of the two lists of texts, averaged over both directions.

Two clean samples do not give the same texts either. So the pictures are split into halves in many ways; half A of the
clean pictures against half B of the clean ones is what a kept role looks like, half A of the clean ones against half B
of the triggered ones is the comparison. The role is called *changed* when the mean of the second falls below the 5 %
quantile of the first.

Limits: splits of one sample overlap, so the quantile is a yardstick, not a significance level.

Example:
    >>> text_similarity(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.eye(3))
    1.0
    >>> text_similarity(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.eye(3))
    0.5
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from operator import add
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import DataError, SettingError
from ..moments import Moments
from .textspan import TextSpan, textspan

if TYPE_CHECKING:
    from ..texts import TextPool

_QUANTILE = 0.05
_MOST_SPLITS = 40


@dataclass(frozen=True)
class RoleChange:
    """A component's texts with and without the trigger.

    Attributes:
        clean, triggered: texts of all clean and of all triggered pictures.
        similarity: of the texts of clean and triggered halves, mean over splits.
        kept: of the texts of two clean halves, mean over splits.
        threshold: the 5 % quantile of the latter.
    """

    clean: TextSpan
    triggered: TextSpan
    similarity: float
    kept: float
    threshold: float

    @property
    def changed(self) -> bool:
        """Whether the role is called changed."""
        return self.similarity < self.threshold

    @property
    def verdict(self) -> str:
        """``role kept`` or ``role changed``."""
        return "role changed" if self.changed else "role kept"


def text_similarity(
    first: Int[Tensor, " chosen"], second: Int[Tensor, " chosen"], text_features: Float[Tensor, "text d_embed"]
) -> float:
    """Mean best-match cosine between two lists of texts, both ways.

    Args:
        first, second: indices into ``text_features``.

    Raises:
        DataError: one of the lists is empty.
    """
    if not len(first) or not len(second):
        raise DataError("A text similarity needs two lists of one text or more.")
    cosines = F.normalize(text_features[first], dim=-1) @ F.normalize(text_features[second], dim=-1).T
    return float((cosines.amax(0).mean() + cosines.amax(1).mean()) / 2)


def compare_roles(
    clean: Sequence[Moments],
    triggered: Sequence[Moments],
    text_features: Float[Tensor, "text d_embed"],
    n_texts: int = 10,
    rank: int = 80,
    texts: Sequence[str] | None = None,
) -> RoleChange:
    """Compare a component's texts on clean and triggered pictures.

    Args:
        clean, triggered: moments of the same disjoint parts of a data set without and with the trigger, an even number
            of them, e.g. ``[each.head(11, 3) for each in folded_statistics(...)]``. Eight give a useful quantile.

    Raises:
        SettingError: an odd number of parts, fewer than four, or another number of triggered ones.
    """
    folds = len(clean)
    if folds != len(triggered) or folds < 4 or folds % 2:
        raise SettingError(
            f"Roles are compared on an even number of parts, four or more, with and without the trigger: not {folds} "
            f"and {len(triggered)}."
        )

    def explain(parts: Sequence[Moments]) -> TextSpan:
        return textspan(reduce(add, parts), text_features, n_texts, rank, texts)

    between, within = [], []
    for half in _halves(folds):
        rest = [fold for fold in range(folds) if fold not in half]
        first = explain([clean[fold] for fold in half]).indices
        within.append(text_similarity(first, explain([clean[fold] for fold in rest]).indices, text_features))
        between.append(text_similarity(first, explain([triggered[fold] for fold in rest]).indices, text_features))
    kept = torch.tensor(within, dtype=torch.float64)
    return RoleChange(
        clean=explain(clean),
        triggered=explain(triggered),
        similarity=sum(between) / len(between),
        kept=float(kept.mean()),
        threshold=float(kept.quantile(_QUANTILE)),
    )


def role(found: TextSpan, pool: TextPool) -> tuple[str, float]:
    """The property that explains most of a component, and its share of the explained variance.

    Args:
        pool: the texts that ``found`` was chosen from.
    """
    shares = property_shares(found, pool)
    name = max(shares, key=lambda each: shares[each])
    return name, shares[name]


def property_shares(found: TextSpan, pool: TextPool) -> dict[str, float]:
    """Share of the explained variance that texts of each property take; they add up to 1."""
    explained = (found.explained_variance / found.explained_variance.sum()).tolist()
    shares = dict.fromkeys(pool.property_names, 0.0)
    for index, share in zip(found.indices.tolist(), explained, strict=True):
        shares[pool.properties[index]] += share
    return shares


def _halves(folds: int) -> list[tuple[int, ...]]:
    """Ways to choose half of the parts, spread evenly over all of them when there are many."""
    every = list(combinations(range(folds), folds // 2))
    step = max(1, -(-len(every) // _MOST_SPLITS))
    return every[::step]
