"""Ground truth for TEXTSPAN: does it name the heads that a model needs to know a factor of the picture?

The embedded world knows the factors of every picture. For each factor, heads are ranked twice:

* by TEXTSPAN: how much of a head's variance is explained by texts about this factor;
* by ablation: how much the linear read-out of the factor loses (cross-entropy, in nats) when the head alone is replaced
  by its held-out mean (direct effect).

The two rankings are compared by Spearman's rank correlation over all heads, with a permutation p-value. Nothing here is
a check that passes or fails: it says how far TEXTSPAN's names can be believed at this scale.

Example:
    >>> import clip_decomp
    >>> found = factor_heads(clip_decomp.load("world/clean"), train=200, test=60, resamples=99)
    >>> [each.factor for each in found]
    ['class', 'color', 'texture', 'position', 'size']
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import permutation_test, rankdata, zscore
from torch import Tensor
from tqdm import tqdm

from clip_decomp.contributions import Contributions, collect
from clip_decomp.data.world.scenes import FACTORS
from clip_decomp.data.world.sets import world_scenes, world_split
from clip_decomp.methods.roles import property_shares
from clip_decomp.methods.textspan import textspan
from clip_decomp.model import HookedCLIP
from clip_decomp.moments import Moments
from clip_decomp.texts import encode_pool, world_pool

from .readout import Reader, fit_reader

#: The factors that both TEXTSPAN's texts and the read-outs speak of.
NAMED = ("class", "color", "texture", "position", "size")


@dataclass(frozen=True)
class FactorHeads:
    """The two rankings of one factor.

    Attributes:
        named: variance that texts about the factor explain in each head.
        share: the same as a share of what all texts explain.
        lost: nats that the factor's read-out loses without each head.
        correlation, p_value: Spearman's of ``named`` and ``lost``; ``share_correlation`` and its p of ``share``.
        intact: cross-entropy of the read-out with nothing ablated, in nats.
    """

    factor: str
    named: Float[Tensor, "layer head"]
    share: Float[Tensor, "layer head"]
    lost: Float[Tensor, "layer head"]
    correlation: float
    p_value: float
    share_correlation: float
    share_p_value: float
    intact: float

    @property
    def best_named(self) -> str:
        """The head that TEXTSPAN names for the factor."""
        return _head(self.named, int(self.named.argmax()))

    @property
    def best_needed(self) -> str:
        """The head that the read-out needs most."""
        return _head(self.lost, int(self.lost.argmax()))

    @property
    def rank_of_named(self) -> int:
        """Place of the named head among those that the read-out needs, from 1."""
        return int((self.lost > self.lost.flatten()[self.named.argmax()]).sum()) + 1

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``."""
        key = f"factor={self.factor}"
        return {
            f"{prefix}/textspan-rank-correlation;{key};by=variance": self.correlation,
            f"{prefix}/textspan-rank-p;{key};by=variance": self.p_value,
            f"{prefix}/textspan-rank-correlation;{key};by=share": self.share_correlation,
            f"{prefix}/textspan-rank-p;{key};by=share": self.share_p_value,
            f"{prefix}/textspan-named-head-rank;{key}": self.rank_of_named,
        }


def factor_heads(
    model: HookedCLIP, train: int = 4000, test: int = 2000, n_texts: int = 16, seed: int = 0, resamples: int = 9999
) -> list[FactorHeads]:
    """Both rankings for every factor, on pictures of the main set.

    Args:
        train: pictures the read-outs learn from and the means are taken over; ``test``: pictures of the rankings.
        resamples: permutations of each p-value.
    """
    pool = world_pool()
    features = encode_pool(model, pool)
    splits = (("train", train), ("test", test))
    known, fresh = (collect(model, world_split("world", split, n, seed)) for split, n in splits)
    known_truth, truth = (world_scenes("world", split, n, seed).factors for split, n in splits)
    layers, heads = fresh.coordinates.shape[1:3]
    share = torch.zeros(len(NAMED), layers, heads)
    variance = torch.zeros(layers, heads)
    for layer in range(layers):
        for head in range(heads):
            found = textspan(Moments.of(fresh.coordinates[:, layer, head], fresh.basis[layer, head]), features, n_texts)
            shares = property_shares(found, pool)
            share[:, layer, head] = torch.tensor([shares[name] for name in NAMED])
            variance[layer, head] = found.explained_variance.sum()
    means = known.means().heads
    results = []
    for place, name in enumerate(tqdm(NAMED, desc="factors", leave=False)):
        column = FACTORS.index(name)
        reader = fit_reader(_unit(known.sum()), known_truth[:, column])
        intact, lost = _lost(reader, fresh, means, truth[:, column])
        named = share[place] * variance
        by_variance, by_share = (_correlation(each, lost, resamples, seed) for each in (named, share[place]))
        results.append(FactorHeads(name, named, share[place], lost, *by_variance, *by_share, intact))
    return results


def _lost(
    reader: Reader, fresh: Contributions, means: Float[Tensor, "layer head d_embed"], truth: Tensor
) -> tuple[float, Float[Tensor, "layer head"]]:
    """Cross-entropy of the read-out, and what it gains without each head."""
    whole = fresh.sum()
    intact = reader.cross_entropy(_unit(whole), truth)
    lost = torch.zeros(fresh.coordinates.shape[1:3])
    for layer in range(lost.shape[0]):
        for head in range(lost.shape[1]):
            edited = whole + means[layer, head] - fresh.head(layer, head)
            lost[layer, head] = reader.cross_entropy(_unit(edited), truth) - intact
    return intact, lost


def _correlation(first: Tensor, second: Tensor, resamples: int, seed: int) -> tuple[float, float]:
    """Spearman's rank correlation and its permutation p-value, two-sided."""
    a, b = first.flatten().numpy(), second.flatten().numpy()
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0, 1.0  # one ranking has no order: no text about the factor was chosen anywhere
    ranks, others = zscore(rankdata(a)), zscore(rankdata(b))
    found = permutation_test(
        (ranks,),
        lambda each, axis: (each * others).mean(axis),
        permutation_type="pairings",
        vectorized=True,
        batch=1000,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def _unit(features: Float[Tensor, "image d_embed"]) -> Float[Tensor, "image d_embed"]:
    return torch.nn.functional.normalize(features, dim=-1)


def _head(values: Float[Tensor, "layer head"], place: int) -> str:
    return f"L{place // values.shape[1]}H{place % values.shape[1]}"
