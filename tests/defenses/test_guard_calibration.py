"""A guard's calibration: its promise holds on fresh images, and groups among the clean images are warned of."""

import math

import pytest
import torch
from scipy.stats import beta, chi2, kstest, norm

import clip_decomp
from clip_decomp.decompose import Observation
from defenses import Guard
from defenses.conformal import false_positive_spread, p_values
from defenses.contamination import second_group

from .tiny import hooked, noise


@pytest.fixture(scope="module")
def model():
    return hooked(1)


def test_fresh_clean_images_are_flagged_as_often_as_was_asked(model):
    """50 calibrations of 200 images: mean and spread are those of Beta's, neither more nor less (1 % level)."""
    rates, fresh = [], 200
    for seed in range(100, 150):
        guard = Guard.calibrate(model, noise(200, seed), seed=seed)
        verdict = guard(noise(fresh, 9000 + seed))
        assert torch.equal(verdict.flagged, verdict.deviations.score > guard.reference[-5])  # four of 100 are above it
        rates.append(verdict.flagged.float().mean())
    rates = torch.stack(rates)
    mean, deviation = false_positive_spread(100, 0.05)
    assert rates.mean() == pytest.approx(0.05, abs=0.01)
    variance = deviation**2 + (mean * (1 - mean) - deviation**2) / fresh  # of Beta's, and of so few fresh images
    assert abs(rates.mean() - mean) / math.sqrt(variance / 50) < norm.ppf(0.995)
    assert chi2.ppf(0.005, 49) < rates.var() * 49 / variance < chi2.ppf(0.995, 49)


def test_that_spread_is_betas():
    """Calibrations on numbers, where there are enough of them to see every quantile."""
    generator, rates = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        reference = torch.rand(100, generator=generator).sort().values
        rates.append(1 - reference[-5].item())  # a fresh number above it has four or fewer beside it: p <= 5 / 101
        assert p_values(reference[-5:-4] + 1e-6, reference).item() == pytest.approx(5 / 101)
        assert p_values(reference[-5:-4], reference).item() == pytest.approx(6 / 101)
    assert kstest(rates, beta(5, 96).cdf).pvalue > 0.01
    mean, deviation = false_positive_spread(100, 0.05)
    assert (mean, deviation) == pytest.approx((beta(5, 96).mean(), beta(5, 96).std()))


def test_a_planted_group_is_noticed():
    generator = torch.Generator().manual_seed(0)
    z, mlps = torch.randn(200, 2, 3, 4, generator=generator), torch.randn(200, 2, 8, generator=generator)
    z[:16, 1, :2] += 6
    mlps[:16, 1] += 6
    assert second_group(Observation(mlps[:, 0], z, mlps)) == pytest.approx(0.08, abs=0.005)


def test_triggered_images_among_the_calibration_are_warned_of(caplog):
    model = clip_decomp.load("world/badnet")
    data = clip_decomp.open_data("world", 64, test=10)
    pixels = data.held_out.first(200).load()[0].float() / 255
    Guard.calibrate(model, model.normalize(pixels))
    assert not caplog.records
    pixels[::20] = model.trigger(pixels[::20], torch.arange(10))
    Guard.calibrate(model, model.normalize(pixels))
    assert "two groups" in caplog.text


def test_one_group_is_seldom_taken_for_two():
    alarms = 0
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        z, mlps = torch.randn(120, 2, 3, 4, generator=generator), torch.randn(120, 2, 8, generator=generator)
        alarms += second_group(Observation(mlps[:, 0], z, mlps)) is not None
    assert alarms <= 1
