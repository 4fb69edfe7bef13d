"""Spreads and conformal thresholds against brute force, closed forms and simulation."""

import math

import pytest
import torch
from scipy.stats import beta, chi2
from sklearn.covariance import ledoit_wolf

from clip_decomp.errors import DataError, SettingError
from defenses.conformal import false_positive_spread, needed, p_values, sorted_reference
from defenses.spread import Spread


def gaussian(count: int, seed: int = 0, scale: float = 1.0):
    noise = torch.randn(count, 2, 3, 6, generator=torch.Generator().manual_seed(seed))
    return scale * noise * torch.tensor([0.2, 0.5, 1, 1, 2, 3]) + 1


def test_left_out_distances_are_those_of_leaving_out():
    values = gaussian(20)
    spread = Spread.fit(values)
    unit = values[:, 1, 2].double()
    _, rho = ledoit_wolf(unit.numpy())
    n = len(unit)
    centered = unit - unit.mean(0)
    sphere = (centered.square().sum(0) / n).mean()
    for i in range(n):
        others = torch.cat([unit[:i], unit[i + 1 :]])
        scatter = (others - others.mean(0)).T @ (others - others.mean(0))
        # The sphere that covariances are shrunk to is that of all images.
        shrunk = ((1 - rho) * scatter + n * rho * sphere * torch.eye(6)) / (n - 1)
        offset = unit[i] - others.mean(0)
        expected = (offset @ torch.linalg.inv(shrunk) @ offset).sqrt()
        assert spread.distances[i, 1, 2] == pytest.approx(expected.item(), rel=1e-5)


def test_deviations_of_fresh_clean_values_are_near_standard_normal():
    spread = Spread.fit(gaussian(300))
    fresh = spread.deviation(gaussian(4000, seed=1))
    assert fresh.mean().abs() < 0.1
    assert fresh.std() == pytest.approx(1, abs=0.1)
    assert (spread.deviation(gaussian(50, seed=2, scale=4)) > 2).float().mean() > 0.9


def test_distances_are_mahalanobis_by_hand():
    values = torch.tensor([[-1.0, 0], [1, 0], [0, -2], [0, 2]])[:, None, None]
    spread = Spread.fit(values)
    assert torch.allclose(spread.mean[0, 0], torch.zeros(2))
    covariance = torch.linalg.inv(spread.precision[0, 0])
    # Shrunk along the line from diag(0.5, 2) to its mean, the sphere of 1.25.
    assert covariance[0, 1] == pytest.approx(0, abs=1e-6)
    assert covariance.diagonal().sum() == pytest.approx(2.5, rel=1e-5)
    point = torch.tensor([[[[3.0, 4.0]]]])
    expected = math.sqrt(9 / covariance[0, 0] + 16 / covariance[1, 1])
    assert spread.distance(point)[0, 0, 0] == pytest.approx(expected, rel=1e-5)
    assert spread.distance_at(0, point[0])[0, 0] == pytest.approx(expected, rel=1e-5)


def test_values_that_nothing_can_be_learnt_from_are_refused():
    with pytest.raises(DataError, match="three clean images"):
        Spread.fit(gaussian(2))
    with pytest.raises(DataError, match="all alike"):
        Spread.fit(gaussian(1).expand(9, -1, -1, -1))
    broken = gaussian(9)
    broken[3, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        Spread.fit(broken)


def test_a_unit_that_never_changes_does_not_break_the_others():
    values = gaussian(30)
    values[:, 0, 0] = 5.0
    spread = Spread.fit(values)
    assert spread.deviation(gaussian(10, seed=3)).isfinite().all()


def test_p_values_by_hand():
    reference = sorted_reference(torch.tensor([3.0, 1.0, 2.0, 2.0]), 0.2)
    assert p_values(torch.tensor([0.0, 1.0, 2.0, 2.5, 3.0, 9.0]), reference).tolist() == pytest.approx(
        [1.0, 1.0, 0.8, 0.4, 0.4, 0.2]
    )


@pytest.mark.parametrize(("rate", "least"), [(0.05, 19), (0.01, 99), (0.5, 1), (0.001, 999)])
def test_a_rate_needs_enough_images(rate, least):
    assert needed(rate) == least
    reference = sorted_reference(torch.arange(float(least)), rate)
    assert p_values(torch.tensor([1e9]), reference) <= rate
    with pytest.raises(DataError, match=str(least)):
        sorted_reference(torch.arange(float(least - 1)), rate)


def test_rates_and_scores_that_make_no_sense_are_refused():
    for rate in (0.0, 1.0, -0.1):
        with pytest.raises(SettingError, match="between 0 and 1"):
            needed(rate)
    with pytest.raises(DataError, match="not finite"):
        sorted_reference(torch.full((40,), torch.nan), 0.05)


def test_false_positives_are_beta_distributed():
    mean, deviation = false_positive_spread(100, 0.05)
    exact = beta(5, 96)
    assert (mean, deviation) == pytest.approx((exact.mean(), exact.std()))
    generator = torch.Generator().manual_seed(0)
    rounds, fresh = 400, 4000
    rates = torch.zeros(rounds)
    for k in range(rounds):
        reference = torch.rand(100, generator=generator).sort().values
        rates[k] = (p_values(torch.rand(fresh, generator=generator), reference) <= 0.05).float().mean()
    assert rates.mean() == pytest.approx(mean, abs=4 * deviation / math.sqrt(rounds))
    counted = deviation**2 + mean * (1 - mean) / fresh  # and the noise of counting
    assert chi2.ppf(0.005, rounds - 1) < rates.var() * (rounds - 1) / counted < chi2.ppf(0.995, rounds - 1)
