"""Decomp-Det and its measurement against cases with known answers."""

from dataclasses import replace

import pytest
import torch

from clip_decomp.attacks import BadNet
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import ClipDecompError, DataError
from defenses import DecompDet
from defenses.detection import auroc, detect

from .tiny import model_and_images


def test_too_few_clean_images_are_refused():
    model, images = model_and_images(1)
    with pytest.raises(DataError, match="two clean images"):
        DecompDet().fit(model, images)


def test_count_is_the_number_of_suspicious_heads():
    model, images = model_and_images()
    detector = DecompDet(share=0.2, zeta=1).fit(model, images)
    score = detector.score(images)
    assert torch.equal(score, detector.suspicious_heads(images).sum((1, 2)).float())
    assert torch.equal(detector.predict(images), score > 1)


def test_distance_finds_an_input_that_similarity_to_the_mean_does_not():
    model, images = model_and_images(200)
    detector = DecompDet(score="distance", parts="heads").fit(model, images)
    # A bright square drives some head far from where clean noise puts it.
    strange = images[:50].clone()
    strange[:, :, 10:40, 10:40] = 8.0
    assert detector.predict(strange).float().mean() > 0.9
    assert detector.predict(images).float().mean() == pytest.approx(0.05, abs=0.01)
    for parts in ("heads", "both"):
        detector = DecompDet(score="distance", parts=parts).fit(model, images)
        assert auroc(detector.score(strange), detector.score(images[:50]), seed=0).value > 0.95


def test_auroc_by_hand_and_its_interval():
    result = auroc(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0]), seed=0)
    assert result.value == 4.5 / 6  # of six pairs four are in order, one is tied
    assert result.low <= result.value <= result.high
    with pytest.raises(DataError):
        auroc(torch.tensor([]), torch.tensor([1.0]), seed=0)


class _Brightness:
    def score(self, images):
        return images.amax((1, 2, 3))


def test_detection_is_reported_against_all_and_against_the_target_class():
    model, _ = model_and_images()
    pictures = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    pictures[:2] = 255  # the target class is bright, so a detector of brightness mistakes it for the trigger
    data = ImageSet("toy", ("lamp", "night"), torch.tensor([0, 0, 1, 1, 1, 1]), TensorSource(pictures), target="lamp")
    found = detect(_Brightness(), model, data, BadNet())
    assert (len(found.clean), len(found.target_clean), len(found.triggered)) == (6, 2, 4)
    assert found.auroc.value == pytest.approx((4 * 4 + 4 * 2 * 0.5) / 24)
    assert found.auroc_target.value == 0.5
    assert set(found.metrics("x")) >= {"x/auroc", "x/auroc-target"}
    foreign = replace(data, labels=torch.ones(6, dtype=torch.long))
    alone = detect(_Brightness(), model, foreign, BadNet())
    assert (alone.auroc_target, list(alone.areas)) == (None, ["auroc"])  # no picture of the target class
    with pytest.raises(ClipDecompError, match="banana"):
        detect(_Brightness(), model, data, BadNet(), target="banana")
