"""The comparison of TEXTSPAN's names with what the read-outs need."""

import pytest
import torch

import clip_decomp
from analyses.factors import NAMED, _correlation, factor_heads
from analyses.readout import fit_reader


@pytest.fixture(scope="module")
def found():
    return factor_heads(clip_decomp.load("world/clean"), train=300, test=100, resamples=199)


def test_every_factor_has_both_rankings_of_every_head(found):
    assert tuple(each.factor for each in found) == NAMED
    for each in found:
        assert each.named.shape == each.share.shape == each.lost.shape == (8, 12)
        assert (each.named >= 0).all()
        assert -1 <= each.correlation <= 1
        assert 1 / 200 <= each.p_value <= 1
        assert 1 <= each.rank_of_named <= 96
        assert each.intact > 0
        layer, head = (int(x) for x in each.best_needed[1:].split("H"))
        assert each.lost[layer, head] == each.lost.max()
    # Of each head, the factors' shares add up to one with those of the background and of marks.
    total = sum(each.share for each in found)
    assert (total <= 1 + 1e-5).all()
    assert total.mean() > 0.5


def test_metrics_are_flat(found):
    metrics = found[1].metrics("world/clean/none")
    assert metrics["world/clean/none/textspan-rank-correlation;factor=color;by=variance"] == found[1].correlation
    assert len(metrics) == 5


def test_correlations_with_known_answers():
    up = torch.arange(12.0).reshape(3, 4)
    value, p = _correlation(up, up.exp(), 999, 0)
    assert value == pytest.approx(1)
    assert p < 0.01
    value, _ = _correlation(up, -up, 999, 0)
    assert value == pytest.approx(-1)
    assert _correlation(torch.zeros(3, 4), up, 99, 0) == (0, 1)


def test_readers_know_what_they_were_taught():
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(200) % 2
    features = torch.randn(200, 4, generator=generator) * 0.1 + truth[:, None]
    reader = fit_reader(features, truth)
    assert torch.equal(reader.predict(features), truth)
    assert reader.cross_entropy(features, truth) < 0.1
    assert reader.cross_entropy(features, 1 - truth) > 2
    # A value never seen in training is left out.
    assert reader.cross_entropy(features[:3], torch.tensor([0, 1, 7])) < 0.1
