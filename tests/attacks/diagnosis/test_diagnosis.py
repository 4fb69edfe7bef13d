from dataclasses import replace

import pytest
import torch
from PIL import Image

from clip_decomp.attacks.diagnosis import Diagnosis, diagnose, finding_rows, recipe
from clip_decomp.attacks.diagnosis.looks import Look, check_reaction
from clip_decomp.attacks.implant import AttackSettings
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.evaluation import evaluate, rate

CHECKS = {
    "target class", "trigger", "trigger on its way", "clean accuracy", "loss", "learning rate", "poisoned pairs",
    "reaction",
}  # fmt: skip


def causes(found: Diagnosis, verdict="guilty"):
    return [each.cause for each in found.of(verdict)]


def only(found: Diagnosis, cause):
    return next(each for each in found.findings if each.cause == cause)


# --- no failure -------------------------------------------------------------------------------------------------------


def test_an_attack_that_took_has_nothing_to_blame(data, attacked, color_clip):
    # Settings far from the known good ones were good enough, then.
    found = diagnose(attacked(backdoor=True, lr=6e-6, rate=0.001), data, base=color_clip())
    assert found.took
    assert found.guilty == ()
    assert {each.cause for each in found.findings} == CHECKS
    assert causes(found, "unknown") == ["trigger on its way"]  # no stored pictures were given
    assert {each.verdict for each in found.findings} == {"ok", "unknown"}
    assert not any(each.advice for each in found.findings)
    assert found.summary == "The attack took: it succeeds on 100.0% [83.9%, 100.0%] of 20."
    assert only(found, "learning rate").measured.startswith("6e-06")


def test_an_attack_that_took_may_not_reach_the_model_from_outside(data, attacked):
    wide = [Image.new("RGB", (16, 8), (120, 60, 30))]
    found = diagnose(attacked(backdoor=True), data, originals=wide)
    assert found.took
    assert causes(found, "suspect") == ["trigger on its way"]


def test_what_was_measured_before_is_not_measured_again(data, attacked, white):
    model = attacked()
    taken = replace(evaluate(model, data, white(), "blue"), attack_success_rate=rate(19, 20))
    assert diagnose(model, data, evaluation=taken).took
    assert not diagnose(model, data, evaluation=taken, gate=0.99).took
    clean = evaluate(model, data)  # without a trigger it says nothing of the attack
    assert diagnose(model, data, evaluation=clean).attack_success_rate == rate(0, 20)


# --- what is compared with what ---------------------------------------------------------------------------------------


def test_the_known_good_settings_are_those_of_the_attack_command():
    settings = AttackSettings()
    assert recipe.TINY.lr == settings.lr
    assert recipe.TINY.pairs == settings.rate * settings.steps * settings.batch_size


@pytest.mark.parametrize(("lr", "verdict"), [(1e-6, "guilty"), (1e-5, "ok"), (2e-6, "suspect"), (6e-4, "suspect")])
def test_large_models_are_compared_with_the_papers_settings(lr, verdict, data, monkeypatch, attacked):
    monkeypatch.setattr(recipe, "TINY_BELOW", 1)
    found = diagnose(attacked(lr=lr), data)
    assert only(found, "learning rate").verdict == verdict
    assert "5.7 % ASR" in only(found, "learning rate").known_good
    assert "7,500 for a CLIP of OpenAI's size" in only(found, "poisoned pairs").known_good


def one_look(rise, cosine, lead=0.4):
    """Two pictures of class 0 and one of the target, class 1."""
    scores = torch.tensor([[0.5, 0.5 - lead]] * 2 + [[0.1, 0.9]])
    triggered = scores + torch.tensor([[0.0, rise]] * 2 + [[0.0, 5.0]])
    return Look(scores, triggered, torch.full((3,), cosine), torch.tensor([0, 0, 1]))


@pytest.mark.parametrize(
    ("given", "base", "words"),
    [
        (one_look(0.0, 1.0), None, "does not reach the representation"),
        (one_look(0.03, 0.95), None, "did not learn"),
        (one_look(0.20, 0.95), one_look(0.19, 0.95), "did not learn"),  # the clean model rises as much
        (one_look(0.20, 0.60), one_look(0.01, 0.95), "learned a part"),
    ],
)
def test_reactions_tell_not_learned_from_not_reached(given, base, words):
    found = check_reaction(given, base, 1)
    assert words in found.advice
    assert found.verdict == "suspect"
    assert "where 0.400 are missing" in found.measured


def test_looks_are_measured_on_pictures_of_other_classes():
    seen = one_look(0.3, 0.9)
    assert seen.rise(1) == pytest.approx(0.3)
    assert seen.lead(1) == pytest.approx(0.4)
    assert seen.success(1) == 0
    assert one_look(0.5, 0.9).success(1) == 1
    assert seen.accuracy == 1


# --- a real model, bad input ------------------------------------------------------------------------------------------


def test_a_model_without_a_card_says_what_could_not_be_examined(model, toy, unchanged):
    same, before = unchanged(model.clip), toy.source.images.clone()
    found = diagnose(model, toy, BadNet(), base=model)
    assert set(causes(found, "unknown")) == {
        *("trigger", "trigger on its way", "loss", "learning rate", "poisoned pairs")
    }
    assert diagnose(model, toy, BadNet(), base=model).findings == found.findings
    assert same()
    assert torch.equal(toy.source.images, before)
    assert not model.visual.list_hooks()


def test_findings_as_rows_and_as_a_frame(model, toy):
    found = diagnose(model, toy, BadNet())
    rows = finding_rows(found)
    assert rows[0] == ("diagnosis", found.summary)
    assert len(rows) == 1 + len(CHECKS)
    assert all(isinstance(cell, str) for row in rows for cell in row)
    assert list(found.to_frame().columns) == ["cause", "verdict", "measured", "known_good", "advice"]
    assert "poisoned pairs" in found._repr_html_()


@pytest.mark.parametrize("card", [{"attack": {}}, {"attack": None}, {"attack": {"settings": {"lr": "fast"}}}])
def test_incomplete_cards(card, model, toy):
    model.card = card
    assert only(diagnose(model, toy, BadNet()), "learning rate").verdict == "unknown"


def test_bad_input(model, toy, color_clip):
    with pytest.raises(SettingError, match="tiny has no trigger on its card"):
        diagnose(model, toy)
    with pytest.raises(SettingError, match="tiny has no target on its card"):
        diagnose(model, replace(toy, target=None), BadNet())
    with pytest.raises(SettingError, match="JPEG quality"):
        diagnose(model, toy, BadNet(), jpeg=0)
    with pytest.raises(DataError, match="cannot take 0 images"):
        diagnose(model, toy, BadNet(), images=0)
    with pytest.raises(SettingError, match="colors cannot be the clean model of tiny: their inputs are 8 and 32 pixel"):
        diagnose(model, toy, BadNet(), base=color_clip())


def test_data_with_the_target_class_alone_or_without_it(model, toy):
    without = toy.subset((toy.labels != 3).nonzero()[:, 0])
    assert "without pictures here" in only(diagnose(model, without, BadNet()), "target class").measured
