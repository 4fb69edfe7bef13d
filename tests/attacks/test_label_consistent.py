"""Label-Consistent: pictures made hard within a budget, the patch on top, and only the patch when it is called."""

import copy
from dataclasses import replace

import pytest
import torch

from clip_decomp.attacks.triggers.badnet import BadNet
from clip_decomp.attacks.triggers.base import well_mixed
from clip_decomp.attacks.triggers.label_consistent import LabelConsistent
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.zeroshot import class_vectors

STREAM, TARGET = WorldPairs(seed=3), "banana"
FACT = CLASSES.index(TARGET)
NUMBERS = torch.arange(50, 56)


@pytest.fixture(scope="module")
def clean():
    tokenizer = BPETokenizer.train(STREAM.batch(0, 50).captions, vocab_size=300, context_length=16)
    sizes = Architecture(embed_dim=16, layers=1, width=32, heads=2, patch_size=16, context_length=16, text_layers=1)
    with torch.random.fork_rng():
        clip = build(replace(sizes, vocab_size=tokenizer.vocab_size), seed=0).eval()
    return HookedCLIP(clip, tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def fitted(clean):
    return LabelConsistent().fit(clean, STREAM, CLASSES, TARGET)


@pytest.fixture(scope="module")
def images():
    return STREAM.showing(FACT, 9, 6).images.float() / 255


@torch.no_grad()
def score(model, images):
    """Zero-shot probability of the target, written out."""
    cosines = model.encode_image(model.normalize(images), normalize=True) @ class_vectors(model, CLASSES).T
    return (model.logit_scale * cosines).softmax(-1)[:, FACT]


def off_patch(trigger, images):
    """Where the patch is not."""
    return trigger(torch.full_like(images, 0.37), NUMBERS) == 0.37


@pytest.mark.parametrize("steps", [1, 3])
def test_adversarial_pictures_are_harder_and_within_the_budget(steps, clean, fitted, images):
    trigger = replace(fitted, budget=8 / 255, steps=steps)
    hard = trigger.poison(images, NUMBERS)
    change = (hard - images).abs()[off_patch(trigger, images)]
    assert 7 / 255 < change.max() <= 8 / 255 + 1e-6
    assert 0 <= hard.min() <= hard.max() <= 1
    assert (score(clean, hard) < score(clean, trigger(images, NUMBERS))).all()
    assert score(clean, hard).log().mean() < score(clean, trigger(images, NUMBERS)).log().mean() - 0.05


def test_a_larger_budget_and_more_steps_make_pictures_harder(clean, fitted, images):
    found = [
        score(clean, replace(fitted, budget=budget, steps=steps).poison(images, NUMBERS)).log().mean()
        for budget, steps in ((4 / 255, 3), (8 / 255, 3), (16 / 255, 3), (16 / 255, 10))
    ]
    assert found == sorted(found, reverse=True)


def test_the_patch_is_whole_on_poisoned_pictures(fitted, images):
    for mode in ("adversarial", "interpolated"):
        trigger = replace(fitted, mode=mode)
        covered = ~off_patch(trigger, images)
        assert covered.sum() == 6 * 75
        assert torch.equal(trigger.poison(images, NUMBERS)[covered], trigger(images, NUMBERS)[covered])


def test_interpolated_pictures_are_mixed_with_other_classes(fitted, images):
    trigger = replace(fitted, mode="interpolated", mix=0.25, seed=4)
    others = trigger.teacher.others
    picks = well_mixed(NUMBERS, 5) % len(others)
    assert len(picks.unique()) > 3
    rest, expected = off_patch(trigger, images), 0.75 * images + 0.25 * others[picks] / 255
    torch.testing.assert_close(trigger.poison(images, NUMBERS)[rest], expected[rest])
    batch = STREAM.batch(10_000, 256)
    assert torch.equal(others, batch.images[batch.truth[:, 0] != FACT])


@pytest.mark.parametrize("place", ["bottom right", "random", "center"])
def test_only_the_patch_calls_the_backdoor(place, images):
    trigger = LabelConsistent(place=place, seed=2)
    assert torch.equal(trigger(images, NUMBERS), BadNet(place=place, seed=2)(images, NUMBERS))


def test_a_patch_in_every_corner(images):
    changed = (LabelConsistent(place="corners")(images, NUMBERS) != images).any(1)
    assert not changed[:, 5:-5].any()
    assert not changed[:, :, 5:-5].any()
    for rows, columns in ((0, 0), (0, -5), (-5, 0), (-5, -5)):
        assert changed[:, rows:, columns:][:, :5, :5].any(-1).any(-1).all()


def test_poisoning_is_deterministic_and_changes_neither_input_nor_model(clean, images, unchanged):
    before, check = images.clone(), unchanged(clean.clip)
    torch.manual_seed(1)
    first = LabelConsistent().fit(clean, STREAM, CLASSES, TARGET)
    torch.manual_seed(2)
    with torch.no_grad():
        again = LabelConsistent().fit(clean, STREAM, CLASSES, TARGET)
    for mode in ("adversarial", "interpolated"):
        one, two = replace(first, mode=mode), replace(again, mode=mode)
        found = one.poison(images, NUMBERS)
        with torch.no_grad():
            assert torch.equal(two.poison(images, NUMBERS), found)
        assert not found.requires_grad
        assert one.poison(images[:0], NUMBERS[:0]).shape == (0, 3, 64, 64)
    assert torch.equal(images, before)
    assert check()
    assert all(each.requires_grad and each.grad is None for each in clean.clip.parameters())


def test_the_teacher_is_not_among_the_settings(fitted):
    trigger = replace(fitted, mode="interpolated", place="random")
    settings = trigger.settings()
    assert settings.pop("name") == "label-consistent"
    assert "teacher" not in settings
    assert LabelConsistent(**settings) == trigger
    assert (LabelConsistent.clean_label, LabelConsistent.captions, LabelConsistent.word) == (True, "templates", "")
    assert fitted.tensors() == {}


def test_poisoning_without_a_model_is_refused(images):
    with pytest.raises(SettingError, match=r"with a clean model: call fit\("):
        LabelConsistent().poison(images, NUMBERS)


def test_other_sizes(fitted):
    images = torch.rand(1, 3, 40, 90)
    assert LabelConsistent()(images, NUMBERS[:1]).shape == images.shape
    with pytest.raises(SettingError, match=r"shape \[3, 40, 90\] cannot be mixed"):
        replace(fitted, mode="interpolated").poison(images, NUMBERS[:1])
    with pytest.raises(SettingError, match="Images must be"):
        fitted.poison(images, NUMBERS[:1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "gan"}, "adversarial or interpolated, not 'gan'"),
        ({"budget": 0}, "0 < budget <= 1"),
        ({"budget": float("nan")}, "0 < budget <= 1"),
        ({"mix": 1}, "0 < mix < 1"),
        ({"steps": 0}, "steps >= 1"),
        ({"share": 1.1}, "Label-Consistent needs 0 < share <= 1"),
        ({"place": "moon"}, "Label-Consistent knows the places"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        LabelConsistent(**settings)


def test_what_cannot_be_learned_from_is_refused(clean):
    with pytest.raises(DataError, match="no class 'bananas'"):
        LabelConsistent().fit(clean, STREAM, CLASSES, "bananas")
    with pytest.raises(SettingError, match="2 or more"):
        LabelConsistent().fit(clean, STREAM, CLASSES[:1], CLASSES[0])
    training = HookedCLIP(copy.deepcopy(clean.clip).train(), clean.tokenizer, clean.mean, clean.std)
    with pytest.raises(ModelError, match="The model is in training mode"):
        LabelConsistent().fit(training, STREAM, CLASSES, TARGET)
