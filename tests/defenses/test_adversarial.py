"""PGD and adversarial prompt tuning on tiny models."""

import sys

import pytest
import torch

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.evaluation import evaluate, scorer
from clip_decomp.model import HookedCLIP
from defenses import RVPT, LinearProbe
from defenses.adv_pt import AdvPT
from defenses.robustness import pgd, pgd_accuracy

NAMES = ("apple", "pear", "plum", "fig")


@pytest.fixture
def pixels():
    return torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.arange(12) % 4


def test_noise_raises_the_loss_within_its_budget(model, toy, pixels, labels):
    logits = scorer(model, NAMES, toy.templates, model.logit_scale.item())
    before = torch.get_rng_state()
    noisy = pgd(logits, pixels, labels, budget=8 / 255, steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (noisy - pixels).abs().max() <= 8 / 255 + 1e-6
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert all(each.grad is None for each in model.clip.parameters())
    losses = [torch.nn.functional.cross_entropy(logits(each), labels).item() for each in (pixels, noisy)]
    assert losses[1] > losses[0] + 0.1
    assert torch.equal(pgd(logits, pixels, labels, budget=8 / 255, steps=5), noisy)
    assert not torch.equal(pgd(logits, pixels, labels, budget=8 / 255, steps=5, seed=1), noisy)


def test_accuracy_under_noise_is_that_of_the_model_in_question(model, toy):
    scale = model.logit_scale.item()
    pixels, labels = toy.load()
    images = model.normalize(pixels.float() / 255)
    probe = LinearProbe(solver="logistic", shots=None).fit(model, images, labels, NAMES)
    prompted = RVPT(length=2, shots=2, epochs=1, bf16=False, progress=False).fit(model, images, labels, NAMES)
    for each in (model, probe, prompted):
        clean = evaluate(each, toy).clean_accuracy
        weak = pgd_accuracy(each, toy, scale, budget=1e-7, steps=1, batch_size=7)
        strong = pgd_accuracy(each, toy, scale, budget=0.2, steps=5)
        assert weak == clean
        assert strong.value < clean.value


def test_adversarial_prompts_are_tuned_on_adversarial_pictures(model, toy, pixels, labels, unchanged):
    check = unchanged(model.clip)
    tuned = AdvPT(length=2, shots=2, epochs=30, lr=0.005, steps=2, progress=False)
    tuned.fit(model, model.normalize(pixels), labels, NAMES)
    assert check()
    assert all(each.requires_grad for each in model.clip.parameters())
    assert tuned.history_[-1]["cross_entropy"] < tuned.history_[0]["cross_entropy"]
    assert tuned.prompts_.context.shape == (1, 2, 16)
    assert tuned.parameters == 32
    assert 0 <= evaluate(tuned, toy).clean_accuracy.value <= 1
    logits = scorer(tuned, NAMES, (), model.logit_scale.item())
    bank = tuned.history_[0]["cross_entropy"]
    chosen = tuned.chosen_
    zero_shot = scorer(model, NAMES, toy.templates, model.logit_scale.item())
    noisy = pgd(zero_shot, pixels[chosen], labels[chosen], steps=2)
    found = torch.nn.functional.cross_entropy(logits(noisy), labels[chosen]).item()
    assert found < bank


def test_adversarial_prompts_are_saved_for_their_model(model, make_clip, tokenizer, pixels, labels, tmp_path):
    tuned = AdvPT(shots=1, epochs=1, steps=1, progress=False).fit(model, pixels, labels, NAMES)
    tuned.save(tmp_path)
    loaded = AdvPT.load(tmp_path, model)
    assert loaded.settings() == tuned.settings()
    assert torch.equal(loaded.class_vectors(), tuned.class_vectors())
    other = make_clip()
    with torch.no_grad():
        other.text_projection.add_(1)
    with pytest.raises(ModelError, match="another text tower"):
        AdvPT.load(tmp_path, HookedCLIP(other, tokenizer, (0.5,) * 3, (0.25,) * 3))


@pytest.mark.parametrize("changes", [{"steps": 0}, {"budget": 0.0}])
def test_bad_noise_is_refused(model, toy, pixels, labels, changes):
    with pytest.raises(SettingError, match="PGD needs"):
        pgd(scorer(model, NAMES, toy.templates, 1.0), pixels, labels, **changes)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"budget": -1.0}, {"shots": 0}, {"length": 0}, {"lr": 0.0}])
def test_bad_settings_are_named_at_once(changes):
    with pytest.raises(SettingError):
        AdvPT(**changes)


def test_a_missing_library_is_named(model, toy, pixels, labels, monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox.attacks", None)
    with pytest.raises(SettingError, match="needs foolbox"):
        pgd(scorer(model, NAMES, toy.templates, 1.0), pixels, labels)
