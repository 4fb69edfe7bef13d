"""STRIP, SCALE-UP, TeCo and BackdoorIDS: cases with known answers, and what they promise of inputs and settings."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN

from clip_decomp.errors import DataError, SettingError
from defenses import STRIP, BackdoorIDS, ScaleUp, TeCo
from defenses.backdoor_ids import growing_masks, splitting_radius
from defenses.teco import lowest_change

NAMES = ("dark", "bright", "trigger")
SMALL = {
    STRIP: {"blends": 4, "calibration": 6},
    ScaleUp: {"calibration": 10},
    TeCo: {"corruptions": ("fog", "contrast", "jpeg-compression"), "calibration": 6},
    BackdoorIDS: {"steps": 6, "calibration": 6},
}


class Corner:
    """A model of three classes: is the corner pure red (even if faint), else, is the picture bright?"""

    device = torch.device("cpu")
    logit_scale = torch.tensor(100.0)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def normalize(self, pixels):
        return (pixels - 0.5) / 0.25

    def denormalize(self, images):
        return images * 0.25 + 0.5

    def encode_text(self, texts):
        return torch.eye(3)[: len(texts)]

    def encode_image(self, images, normalize=False):
        pixels = self.denormalize(images)
        corner = pixels[:, :, :4, :4].mean((2, 3))
        red = corner[:, 0] - corner[:, 1:].amax(1) > 0.3
        light = (pixels.mean((1, 2, 3)) > 0.5).long()
        return torch.eye(3)[torch.where(red, 2, light)]


@pytest.fixture
def corner():
    return Corner()


@pytest.fixture
def clean(corner):
    """Gray pictures of even lightness, normalized."""
    levels = torch.linspace(0.05, 0.95, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    return corner.normalize(levels[:, None, None, None].expand(-1, 3, 16, 16))


@pytest.fixture
def triggered(corner, clean):
    pixels = corner.denormalize(clean)
    pixels[:, :, :4, :4] = torch.tensor([1.0, 0, 0])[:, None, None]
    return corner.normalize(pixels)


def test_strip_a_class_that_wins_over_every_blend_has_no_entropy(corner, clean, triggered):
    detector = STRIP(blends=8).fit(corner, clean, NAMES)
    assert detector.score(triggered).abs().max() < 1e-6
    unsure = Corner()
    unsure.logit_scale = torch.tensor(0.0)
    even = STRIP(blends=8).fit(unsure, clean, NAMES).score(clean)
    torch.testing.assert_close(even, torch.full((24,), -float(np.log(3))))


def test_strip_blends_are_weighted_sums_of_pixels(corner, clean):
    seen = []

    class Spy(Corner):
        def encode_image(self, images, normalize=False):
            seen.append(self.denormalize(images))
            return super().encode_image(images)

    detector = STRIP(blends=3, weight=0.25, batch_size=6).fit(Spy(), clean, NAMES)
    seen.clear()
    detector.score(clean[:4])
    assert [len(each) for each in seen] == [6, 6]
    expected = 0.25 * corner.denormalize(clean[1]) + 0.75 * detector.overlays_[2]
    torch.testing.assert_close(seen[0][5], expected)


def test_scale_up_counts_the_copies_that_keep_their_class(corner, clean, triggered):
    detector = ScaleUp("data-free").fit(corner, clean, NAMES)
    assert (detector.score(triggered) == 1).all()
    gray = torch.tensor([0.06, 0.2, 0.6])[:, None, None, None].expand(-1, 3, 16, 16)
    # 0.06 is bright from factor 9 on, 0.2 from factor 3 on, 0.6 is bright already.
    torch.testing.assert_close(detector.score(corner.normalize(gray)), torch.tensor([0.6, 0.0, 1.0]))


def test_scale_up_with_data_judges_by_what_is_usual_for_the_class(corner, clean):
    free, limited = (ScaleUp(variant).fit(corner, clean, NAMES) for variant in ("data-free", "data-limited"))
    plain, judged = free.score(clean), limited.score(clean)
    dark = limited.classes(corner.denormalize(clean)) == 0
    expected = (plain - plain[dark].mean()) / plain[dark].std(correction=0)
    torch.testing.assert_close(judged[dark], expected[dark])
    # Bright pictures agree with each other: no deviation of their own. No picture has the third class.
    assert judged[~dark].abs().max() == 0
    torch.testing.assert_close(limited.mean_[2], plain.mean())


def test_the_lowest_change_of_hand_made_predictions():
    own = torch.tensor([0, 1, 2, 3])
    table = torch.tensor([[9, 1, 2, 3], [0, 9, 2, 3], [9, 1, 2, 9], [9, 9, 2, 3], [9, 9, 2, 3]])
    asked = []

    def classify(severity, rows):
        asked.append(rows.tolist())
        return table[severity - 1, rows]

    assert lowest_change(classify, own).tolist() == [1, 2, 6, 3]
    assert asked == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [2], [2]]


def test_teco_is_the_deviation_over_corruptions(corner):
    gray = torch.tensor([0.35, 0.95])[:, None, None, None].expand(-1, 3, 16, 16)
    images = corner.normalize(gray)
    detector = TeCo(("brightness", "contrast")).fit(corner, images, NAMES)
    # 0.35 exceeds 0.5 when 0.2 is added, at severity 2; contrast leaves means as they are.
    assert detector.severities(images).tolist() == [[2, 6], [6, 6]]
    torch.testing.assert_close(detector.score(images), torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("min_samples", [1, 2, 3, 4])
def test_the_splitting_radius_is_where_dbscan_stops_to_find_two_clusters(min_samples):
    generator = np.random.default_rng(min_samples)
    for _ in range(5):
        points = generator.normal(size=(12, 2)) + 2 * generator.integers(0, 2, (12, 1))
        distances = np.linalg.norm(points[:, None] - points, axis=-1)

        def clusters(eps, distances=distances):
            return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances).labels_.max() + 1

        radius = splitting_radius(distances, min_samples)
        assert radius == 0 or clusters(radius * (1 - 1e-9)) > 1
        assert all(clusters(eps) <= 1 for eps in np.unique(distances) if eps >= radius and eps > 0)


def test_masks_grow_by_whole_cells():
    masks = growing_masks((10, 12), steps=5, most=0.8, cell=4, seed=0)
    assert masks.shape == (5, 10, 12)
    assert not masks[0].any()
    assert all((after | before).equal(after) for before, after in pairwise(masks))
    cells = masks[:, ::4, ::4]
    assert cells.flatten(1).sum(1).tolist() == [0, 2, 4, 6, 8]
    assert cells.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :10, :12].equal(masks)


def test_an_embedding_that_jumps_is_flagged_and_one_that_stays_is_not(corner, clean, triggered):
    detector = BackdoorIDS(steps=12, most=0.9, cell=4, eps=0.5, seed=1).fit(corner, clean)
    bright, dark = corner.normalize(torch.full((1, 3, 16, 16), 0.9)), corner.normalize(torch.zeros(1, 3, 16, 16))
    jumps = detector.trajectories(corner.denormalize(triggered))
    assert (jumps[:, 0] == torch.tensor([0.0, 0, 1])).all()
    assert (jumps[:, -1, 2] == 0).all()
    assert detector.predict(triggered).all()
    assert not detector.predict(torch.cat([bright, dark])).any()
    torch.testing.assert_close(detector.score(triggered), torch.full((24,), 2**0.5))
    assert detector.score(bright).item() == 0


@pytest.mark.parametrize("kind", list(SMALL))
def test_scores_do_not_depend_on_the_batch_and_change_nothing(kind, model, images, toy, unchanged):
    check, before = unchanged(model.clip), images.clone()
    one, other = (kind(**SMALL[kind], batch_size=size).fit(model, toy) for size in (64, 2))
    scores = one.score(images)
    assert scores.shape == (3,)
    torch.testing.assert_close(torch.cat([other.score(each) for each in images.split(1)]), scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(one.predict(images), kind(**SMALL[kind]).fit(model, toy).predict(images))
    assert torch.equal(images, before)
    assert check()
    assert not any(point.fwd_hooks for point in model.visual.hook_dict.values())


@pytest.mark.parametrize("kind", list(SMALL))
def test_few_clean_pictures_are_flagged(kind, model, toy):
    detector = kind(**{**SMALL[kind], "calibration": 24}).fit(model, toy)
    clean = model.normalize(toy.source.images.float() / 255)
    assert detector.predict(clean).float().mean() <= 0.15


@pytest.mark.parametrize("kind", [STRIP, ScaleUp, TeCo])
def test_tensors_need_class_names(kind, model, images):
    with pytest.raises(SettingError, match="class_names"):
        kind().fit(model, images)


@pytest.mark.parametrize("kind", list(SMALL))
def test_no_images_are_an_error(kind, model, images, toy):
    with pytest.raises(DataError, match="no clean pictures"):
        kind(**SMALL[kind]).fit(model, images[:0], NAMES)
    detector = kind(**SMALL[kind]).fit(model, toy)
    for ask in (detector.score, detector.predict):
        with pytest.raises(DataError, match="no images"):
            ask(images[:0])


@pytest.mark.parametrize(
    ("kind", "settings", "word"),
    [
        (STRIP, {"blends": 0}, "blends"),
        (STRIP, {"weight": 1.0}, "1.0"),
        (STRIP, {"calibration": 0}, "calibration"),
        (ScaleUp, {"variant": "guess"}, "guess"),
        (ScaleUp, {"factors": ()}, "factor"),
        (ScaleUp, {"factors": (3, -1)}, "-1"),
        (ScaleUp, {"batch_size": 0}, "batch_size"),
        (TeCo, {"corruptions": ("fog", "rain")}, "rain"),
        (TeCo, {"corruptions": ("fog", "fog")}, "two corruptions"),
        (BackdoorIDS, {"steps": 3, "min_samples": 2}, "steps"),
        (BackdoorIDS, {"most": 1.5}, "1.5"),
        (BackdoorIDS, {"cell": 0}, "cell"),
        (BackdoorIDS, {"eps": 0.0}, "eps"),
        (BackdoorIDS, {"min_samples": 0}, "min_samples"),
    ],
)
def test_bad_settings_are_named(kind, settings, word):
    with pytest.raises(SettingError, match=word):
        kind(**settings)


def test_strip_needs_as_many_pictures_as_blends(model, toy):
    with pytest.raises(DataError, match="64 clean pictures, and there are 24"):
        STRIP().fit(model, toy)
