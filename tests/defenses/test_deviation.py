import pytest
import torch

from clip_decomp.decompose import Observation
from defenses.deviation import Deviation, taken


def _seen(images: int, seed: int, heads: float = 1.0, mlps: float = 1.0) -> Observation:
    """Noise: 4 layers of 6 heads of 5 dimensions, and MLPs of 8, wider by a factor."""
    generator = torch.Generator().manual_seed(seed)
    z, written = torch.randn(images, 4, 6, 5, generator=generator), torch.randn(images, 4, 8, generator=generator)
    return Observation(torch.zeros(images, 3), heads * z, mlps * written)


@pytest.fixture(scope="module")
def clean() -> Observation:
    return _seen(300, 0)


@pytest.mark.parametrize(("heads", "mlps", "seen_in"), [(2.0, 1.0, "of_heads"), (1.0, 2.0, "of_mlps")])
def test_what_only_heads_or_only_mlps_show_is_not_diluted(clean, heads, mlps, seen_in):
    deviation, threshold = Deviation.fit(clean), Deviation.fit(clean).left_out.quantile(0.95)
    found = deviation.measure(_seen(100, 1, heads, mlps))
    assert (found.score > threshold).float().mean() > 0.95
    assert (found.score >= getattr(found, seen_in)).all()


@pytest.mark.parametrize("parts", ["heads", "mlps"])
def test_parts_alone_are_their_own_score(clean, parts):
    found = Deviation.fit(clean, parts).measure(_seen(10, 1))
    assert torch.equal(found.score, getattr(found, f"of_{parts}"))


def test_left_out_scores_are_those_of_fresh_clean_images(clean):
    deviation = Deviation.fit(clean)
    fresh = deviation.measure(_seen(2000, 2)).score
    for share in (0.5, 0.9):
        assert (fresh <= deviation.left_out.quantile(share)).float().mean() == pytest.approx(share, abs=0.06)


def test_some_of_the_images_and_what_a_file_holds(clean):
    deviation = Deviation.fit(taken(clean, torch.arange(100)))
    again = Deviation.restore(deviation.tensors(), "both")
    seen = _seen(5, 3)
    assert torch.equal(again.measure(seen).score, deviation.measure(seen).score)
