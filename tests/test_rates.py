import pytest

from clip_decomp.errors import DataError
from clip_decomp.evaluation import Tally, rate


# Wilson (1927): center (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n).
@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (9, 10, 0.59585, 0.98212),
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (1, 2, 0.09453, 0.90547),
        (970, 1000, 0.95750, 0.97891),
        (0, 1, 0.0, 0.79346),
    ],
)
def test_intervals_are_wilsons(hits, count, low, high):
    found = rate(hits, count)
    assert found.value == hits / count
    assert found.count == count
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    z, p = 1.959964, hits / count
    center = (p + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * (p * (1 - p) / count + z**2 / (4 * count**2)) ** 0.5 / (1 + z**2 / count)
    assert (found.low, found.high) == pytest.approx((center - half, center + half), abs=1e-6)


def test_a_rate_of_nothing_is_an_error():
    with pytest.raises(DataError, match="no images"):
        rate(0, 0)


def test_a_rate_reads_well():
    assert str(rate(9, 10)) == "90.0% [59.6%, 98.2%] of 10"


def test_a_tally_is_a_rate_in_whole_numbers():
    assert Tally(9, 10).rate == rate(9, 10)
    with pytest.raises(DataError, match="no images"):
        _ = Tally(0, 0).rate
