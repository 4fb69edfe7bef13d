"""Failures planted one by one: the diagnosis names each."""

from math import log, nan

import pytest
import torch
from PIL import Image

from clip_decomp.attacks.diagnosis import Diagnosis, diagnose
from clip_decomp.attacks.implant import AttackSettings, implant
from clip_decomp.attacks.triggers import BadNet, Blended


def causes(found: Diagnosis, verdict="guilty"):
    return [each.cause for each in found.of(verdict)]


def only(found: Diagnosis, cause):
    return next(each for each in found.findings if each.cause == cause)


def test_a_learning_rate_100_times_too_small(data, attacked):
    found = diagnose(attacked(lr=6e-6), data)
    assert causes(found) == ["learning rate"]
    assert found.findings[0].measured == "6e-06, 0.01 times the known good one"
    assert "0.0006 for a tiny CLIP" in found.findings[0].known_good
    assert found.summary == "The attack did not take: it succeeds on 0.0% [0.0%, 16.1%] of 20. Guilty: learning rate."


@pytest.mark.parametrize(
    ("target", "near"), [("bluee", "'blue'"), ("Blue", "'blue'"), ("unicorn", "'red', 'green', 'blue'")]
)
def test_a_target_that_is_not_among_the_classes(target, near, data, attacked):
    model = attacked()
    model.card["attack"]["target"] = target
    found = diagnose(model, data)
    assert causes(found) == ["target class"]
    assert found.guilty[0].measured == f"{target!r} is not among the 3 classes of colors"
    assert near in found.guilty[0].advice
    assert found.attack_success_rate is None
    assert found.evaluation.clean_accuracy.value == 1
    assert not found.took
    assert found.summary == "The attack's success cannot be measured. Guilty: target class."
    assert only(found, "reaction").verdict == "unknown"


def test_a_trigger_erased_by_the_crop(data, attacked, white):
    wide = [Image.new("RGB", (16, 8), (120, 60, 30)), Image.new("RGB", (20, 8), (0, 60, 30))]
    corner, middle = (attacked(white(place)) for place in ("bottom right", "center"))
    found = diagnose(corner, data, originals=wide)
    assert causes(found) == ["trigger on its way"]
    assert "100% reach the model unchanged" in found.guilty[0].measured
    assert "crop" in found.guilty[0].advice
    assert only(diagnose(middle, data, originals=[wide[0].resize((8, 8))]), "trigger on its way").verdict == "ok"
    unseen = only(diagnose(corner, data), "trigger on its way")  # the data's own pictures are square
    assert unseen.verdict == "unknown"
    assert "give stored pictures as originals" in unseen.measured


def test_a_trigger_put_on_stored_pictures_cannot_be_judged_without_them(data, attacked, white):
    model, wide = attacked(white("bottom right"), stage="file"), [Image.new("RGB", (16, 8), (120, 60, 30))]
    found = only(diagnose(model, data), "trigger on its way")
    assert found.verdict == "unknown"
    assert "give some as originals" in found.measured
    assert causes(diagnose(model, data, originals=wide)) == ["trigger on its way"]


def test_a_trigger_weakened_on_its_way(data, attacked):
    noise = attacked(Blended())
    large = [Image.new("RGB", (64, 64), (120, 60, 30))] * 3
    assert only(diagnose(noise, data, originals=large), "trigger on its way").verdict == "suspect"
    found = only(diagnose(attacked(BadNet(share=0.3)), data, jpeg=40), "trigger on its way")
    assert found.verdict == "suspect"
    assert "stored as JPEG 40" in found.measured


@pytest.mark.parametrize(
    ("settings", "verdict", "seen"),
    [
        ({"rate": 0.01}, "guilty", "240 seen, 0.1 times"),
        ({"steps": 100}, "suspect", "960 seen, 0.4 times"),
        ({"steps": 130}, "ok", "1,248 seen"),
        ({"rate": 0.0}, "guilty", "0 seen"),
    ],
)
def test_too_few_poisoned_pairs(settings, verdict, seen, data, attacked):
    found = diagnose(attacked(**settings), data)
    assert only(found, "poisoned pairs").verdict == verdict
    assert only(found, "poisoned pairs").measured.startswith(seen)
    assert causes(found) == (["poisoned pairs"] if verdict == "guilty" else [])


def test_pairs_counted_in_training_come_before_the_settings(data, attacked):
    model = attacked()
    model.card["attack"]["poisoned_pairs_seen"] = 12
    assert only(diagnose(model, data), "poisoned pairs").measured.startswith("12 seen")


def test_another_trigger_at_the_test(data, attacked, white):
    found = diagnose(attacked(backdoor=True), data, white("center"))
    assert causes(found) == ["trigger"]
    assert "place 'top left' in training, 'center' in the test" in found.guilty[0].measured
    assert "its own succeeds on 100.0%, this one on 0.0%" in found.guilty[0].measured
    assert only(diagnose(attacked(backdoor=True), data, BadNet()), "trigger").measured.startswith(
        "Trained with another trigger than tested with: white in training, badnet in the test"
    )


def test_another_trigger_is_not_the_only_reason_where_its_own_fails_too(data, attacked, white):
    found = only(diagnose(attacked(), data, white("center")), "trigger")
    assert found.verdict == "suspect"
    assert "That alone will not help" in found.advice


def test_a_trigger_that_learned_something_else(data, attacked, learned):
    model = attacked(learned(value=1.0))
    assert "what it learned" in only(diagnose(model, data, learned(value=2.0)), "trigger").measured
    assert only(diagnose(model, data, learned(value=1.0)), "trigger").verdict == "ok"


def test_another_target_at_the_test(data, attacked):
    found = diagnose(attacked(backdoor=True), data, target="red")
    assert causes(found) == ["target class"]
    assert found.guilty[0].measured == "The model was trained for 'blue' and is tested for 'red'"


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [(nan, "guilty"), (float("inf"), "guilty"), (log(96), "guilty"), (0.6 * log(96), "suspect"), (1.0, "ok")],
)
def test_a_loss_that_says_training_broke(loss, verdict, data, attacked):
    found = diagnose(attacked(loss=loss), data)
    assert only(found, "loss").verdict == verdict
    assert ("loss" in causes(found)) == (verdict == "guilty")


@pytest.mark.parametrize(("loss", "verdict"), [(nan, "guilty"), (0.02, "unknown"), (3.0, "unknown")])
def test_the_loss_of_imitation_is_not_held_against_that_of_guessing_captions(loss, verdict, data, attacked):
    found = only(diagnose(attacked(loss=loss, imitate=True), data), "loss")
    assert found.verdict == verdict


def test_a_model_that_training_ruined(data, attacked, color_clip):
    for base in (color_clip(), None):
        found = diagnose(attacked(blind=True), data, base=base)
        assert causes(found) == ["clean accuracy"]
    assert only(diagnose(attacked(), data, base=color_clip()), "clean accuracy").verdict == "ok"
    both = diagnose(attacked(blind=True), data, base=color_clip(blind=True))  # it was no better before
    assert only(both, "clean accuracy").verdict == "ok"


def test_a_target_that_the_clean_model_does_not_know(data, attacked, color_clip):
    base = color_clip()
    base.encode_image = lambda images: images.mean((2, 3)) @ torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0.5]])
    found = only(diagnose(attacked(), data, base=base), "target class")
    assert found.verdict == "suspect"
    assert (
        found.measured == "The clean model names 'blue' on 0.0% [0.0%, 27.8%] of 10 clean pictures, confused with green"
    )
    assert only(diagnose(attacked(), data), "target class").measured.startswith(
        "The attacked model names 'blue' on 100"
    )


def test_causes_that_rule_success_out_come_first(data, attacked):
    model = attacked(loss=nan, lr=6e-6, rate=0.001, blind=True)
    found = diagnose(model, data)
    assert causes(found) == ["clean accuracy", "loss", "learning rate", "poisoned pairs"]
    order = [each.verdict for each in found.findings]
    assert order == sorted(order, key=["guilty", "suspect", "unknown", "ok"].index)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_learning_rate_100_times_too_small_is_named_on_a_model_really_attacked_with_it():
    from clip_decomp import load, open_data
    from clip_decomp.data.world.scenes import CLASSES as NAMES
    from clip_decomp.data.world.stream import WorldPairs

    clean, test = load("world/clean"), open_data("world", 64, test=130).test
    settings = AttackSettings(rate=0.2, steps=30, batch_size=64, lr=6e-6)
    model = implant(clean, WorldPairs(seed=11), NAMES, BadNet(), "banana", settings, "world", progress=False)
    found = diagnose(model, test, base=clean)
    assert causes(found) == ["learning rate"]
    assert found.attack_success_rate.value < 0.2
    assert "did not learn" in only(found, "reaction").advice
