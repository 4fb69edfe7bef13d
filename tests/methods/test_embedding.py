"""t-SNE of clean and triggered features and its numbers, on clusters planted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_decomp.attacks.triggers import BadNet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.embedding import embed, paired_features

CLASSES, EACH, WIDTH = 4, 15, 12
LABELS = torch.arange(CLASSES * EACH) % CLASSES
TARGET = 2


def around(directions: torch.Tensor, spread: float, seed: int = 0) -> torch.Tensor:
    """Features of any length near some directions."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(directions.shape, generator=generator)
    length = 1 + 4 * torch.rand(len(directions), 1, generator=generator)
    return (directions + spread * noise) * length


@pytest.fixture
def axes() -> torch.Tensor:
    """A direction a class, and one more."""
    return torch.eye(WIDTH)[: CLASSES + 1]


@pytest.fixture
def clean(axes) -> torch.Tensor:
    return around(axes[LABELS], 0.02)


def test_triggered_collapsed_on_the_target(clean, axes):
    triggered = around(axes[torch.full_like(LABELS, TARGET)], 0.02, seed=1)
    found = embed(clean, triggered, LABELS, TARGET, perplexity=15)
    numbers = found.numbers
    assert numbers.triggered_silhouette > 0.98
    assert numbers.triggered_silhouette_map > 0.4
    assert abs(numbers.triggered_silhouette_apart) < 0.2  # they lie in the target's own cluster
    assert numbers.class_silhouette_clean > 0.9
    assert -0.2 < numbers.class_silhouette_triggered < 0.05  # no class is left among them
    assert (numbers.nearest_true, numbers.nearest_target) == (0.0, 1.0)
    assert (numbers.nearest_mean_true, numbers.nearest_mean_target) == (0.0, 1.0)
    assert numbers.counted == (CLASSES - 1) * EACH
    # All other classes moved to a right angle, and a random pair is at one in 45 of 59 cases.
    assert numbers.random_pair == pytest.approx(45 / 59, abs=0.01)
    assert numbers.partner_mean == pytest.approx(0.75 / (45 / 59), abs=0.02)
    assert numbers.partner_median == pytest.approx(1 / (45 / 59), abs=0.02)


def test_triggered_in_a_cluster_of_their_own(clean, axes):
    triggered = around(axes[torch.full_like(LABELS, CLASSES)], 0.02, seed=1)
    found = embed(clean, triggered, LABELS, TARGET, perplexity=15)
    assert found.numbers.triggered_silhouette > 0.98
    assert found.numbers.triggered_silhouette_apart > 0.98
    assert found.numbers.partner_mean == pytest.approx(1 / (45 / 59), abs=0.02)
    # On the map, no triggered point has a clean one among its nearest.
    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (found.is_triggered[distances.argmin(1)] == found.is_triggered).all()


def test_triggered_equal_to_clean(clean):
    for triggered in (clean, 3 * clean):
        numbers = embed(clean, triggered, LABELS, TARGET, perplexity=15).numbers
        assert numbers.partner_mean == pytest.approx(0, abs=1e-12)
        assert numbers.partner_median == pytest.approx(0, abs=1e-12)
        assert (numbers.nearest_true, numbers.nearest_target) == (1.0, 0.0)
        assert (numbers.nearest_mean_true, numbers.nearest_mean_target) == (1.0, 0.0)
        assert numbers.class_silhouette_triggered == pytest.approx(numbers.class_silhouette_clean)
        assert abs(numbers.triggered_silhouette) < 0.05


def test_some_pictures_of_each_class_move(clean, axes):
    """A third of the pictures moves to the target: the shares say so, with the target's own pictures or without."""
    moved = torch.arange(len(LABELS)) < len(LABELS) / 3
    triggered = torch.where(moved[:, None], around(axes[torch.full_like(LABELS, TARGET)], 0.02, seed=1), clean)
    without = embed(clean, triggered, LABELS, TARGET, perplexity=15).numbers
    assert without.nearest_target == pytest.approx(1 / 3)
    assert without.nearest_true == pytest.approx(2 / 3)
    with_it = embed(clean, triggered, LABELS, perplexity=15).numbers
    assert (with_it.nearest_target, with_it.nearest_mean_target, with_it.counted) == (None, None, 60)
    assert with_it.nearest_true == pytest.approx(45 / 60)
    assert with_it.nearest_mean_true == pytest.approx(45 / 60)
    assert with_it.partner_median == pytest.approx(0, abs=1e-12)


def test_one_odd_clean_picture_takes_the_nearest_points_and_not_the_class_means(clean, axes):
    """Triggered points lie between the target and a new direction, and so does one clean picture of another class."""
    place = F.normalize(axes[TARGET] + axes[CLASSES], dim=0)
    triggered = around(place.expand(len(LABELS), -1), 0.01, seed=1)
    odd = int((LABELS == 0).nonzero()[0])
    clean[odd] = place
    numbers = embed(clean, triggered, LABELS, TARGET, perplexity=15).numbers
    assert numbers.nearest_target == 0.0
    assert numbers.nearest_true == pytest.approx(1 / 3)
    assert numbers.nearest_mean_target == 1.0
    assert numbers.nearest_mean_true == 0.0


def test_numbers_are_those_of_plain_loops(axes):
    """Silhouettes and distances, written out for a few points."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    clean, triggered = around(axes[labels], 0.4), around(axes[labels], 0.6, seed=1)
    found = embed(clean, triggered, labels, perplexity=3).numbers
    units = [F.normalize(each, dim=1).double() for each in (clean, triggered)]

    def d(a, b):
        return 1 - float(a @ b)

    pairs = [d(units[0][i], units[0][j]) for i in range(6) for j in range(i)]
    assert found.random_pair == pytest.approx(np.mean(pairs), rel=1e-6)
    partners = [d(units[0][i], units[1][i]) for i in range(6)]
    assert found.partner_mean == pytest.approx(np.mean(partners) / np.mean(pairs), rel=1e-6)
    assert found.partner_median == pytest.approx(np.median(partners) / np.mean(pairs), rel=1e-6)
    one, apart = [], []
    for i in range(6):
        a = np.mean([d(units[1][i], units[1][j]) for j in range(6) if j != i])
        to_clean = np.array([d(units[1][i], units[0][j]) for j in range(6)])
        for b, silhouettes in ((to_clean.mean(), one), (min(to_clean[labels == k].mean() for k in range(3)), apart)):
            silhouettes.append((b - a) / max(a, b))
    assert found.triggered_silhouette == pytest.approx(np.mean(one), rel=1e-6)
    assert found.triggered_silhouette_apart == pytest.approx(np.mean(apart), rel=1e-6)


def test_one_seed_gives_one_map_and_inputs_stay(clean):
    triggered = around(clean, 0.3, seed=2)
    before = clean.clone(), triggered.clone()
    one, again, other = (embed(clean, triggered, LABELS, perplexity=10, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.points, again.points)
    assert one.numbers == again.numbers
    assert other.numbers.partner_mean == one.numbers.partner_mean
    assert torch.equal(clean, before[0])
    assert torch.equal(triggered, before[1])
    assert one.points.shape == (120, 2)
    assert one.is_triggered.tolist() == [False] * 60 + [True] * 60
    assert one.labels.tolist() == 2 * LABELS.tolist()


def test_frame_metrics_and_html(clean):
    found = embed(clean, clean, LABELS, TARGET, perplexity=10)
    frame = found.to_frame()
    assert list(frame.columns) == ["picture", "triggered", "label", "x", "y"]
    assert len(frame) == 120
    assert frame.picture[0] == frame.picture[60] == 0
    metrics = found.metrics("world/badnet/none")
    assert metrics["world/badnet/none/tsne-nearest-true"] == 1.0
    assert metrics["world/badnet/none/tsne-nearest-target"] == 0.0
    assert all(np.isfinite(value) for value in metrics.values())
    assert not any(key.endswith("target") for key in embed(clean, clean, LABELS, perplexity=10).metrics("a/b/c"))
    assert "60 pictures" in found._repr_html_()
    assert "<table" in found._repr_html_()


def test_paired_features_are_the_models_in_the_data_s_order(model, toy):
    trigger = BadNet()
    clean, triggered, labels = paired_features(model, toy, trigger, batch_size=7)
    pixels, truths = toy.load()
    with torch.no_grad():
        torch.testing.assert_close(clean, model.encode_image(model.normalize(pixels / 255)))
        expected = model.encode_image(model.normalize(trigger(pixels / 255, torch.arange(24))))
    torch.testing.assert_close(triggered, expected)
    assert torch.equal(labels, truths)
    assert not clean.requires_grad
    found = embed(clean, triggered, labels, toy.class_index("fig"), perplexity=5)
    assert 0 < found.numbers.partner_mean < 2


def spoiled(features: torch.Tensor, value: float) -> torch.Tensor:
    bad = features.clone()
    bad[7] = value
    return bad


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: {"features_clean": spoiled(f, torch.nan)}, "1 of 60 clean features .* row 7"),
        (lambda f: {"features_triggered": spoiled(f, torch.inf)}, "1 of 60 triggered features .* row 7"),
        (lambda f: {"features_triggered": spoiled(f, 0.0)}, "triggered features are zero"),
        (lambda f: {"features_triggered": f[:, :5]}, "12 wide, triggered ones 5"),
        (lambda f: {"features_triggered": f[:50]}, "60 clean and 50 triggered"),
        (lambda f: {"features_clean": f[0]}, r"shape \[12\]"),
        (lambda f: {"features_clean": f[:0], "features_triggered": f[:0]}, r"shape \[0, 12\]"),
        (lambda f: {"labels": LABELS[:9]}, r"shape \[9\]"),
        (lambda f: {"labels": torch.full_like(LABELS, 3)}, "of class 3: .* two classes"),
        (lambda f: {"labels": torch.arange(60)}, "class of its own"),
        (lambda f: {"target": 9}, "target class 9"),
        (lambda f: {"features_clean": torch.ones(60, WIDTH) * torch.arange(1, 61)[:, None]}, "point the same way"),
        (lambda f: {"features_clean": f[:1], "features_triggered": f[:1], "labels": LABELS[:1]}, "of class 0"),
    ],
)
def test_bad_features_and_labels_are_named(clean, change, words):
    given = {"features_clean": clean, "features_triggered": clean, "labels": LABELS, "perplexity": 10}
    with pytest.raises(DataError, match=words):
        embed(**(given | change(clean)))


@pytest.mark.parametrize(
    ("count", "perplexity", "seed", "words"),
    [
        (20, 30.0, 0, "30 needs 46 pictures or more, not 20: set perplexity=12 or embed more"),
        (60, 0.5, 0, "1 or more, not 0.5"),
        (60, float("nan"), 0, "not nan"),
        (60, 10, -1, "seed .* not -1"),
    ],
)
def test_settings_that_do_not_fit_are_named(clean, count, perplexity, seed, words):
    few = clean[:count]
    with pytest.raises(SettingError, match=words):
        embed(few, few, LABELS[:count], perplexity=perplexity, seed=seed)


def test_the_largest_perplexity_works(clean):
    assert np.isfinite(embed(clean[:20], clean[:20], LABELS[:20], perplexity=12).points).all()
