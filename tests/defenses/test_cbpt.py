"""Trigger inversion and CBPT on tiny models: the losses written out, and what tuning does."""

import json

import pytest
import torch
import torch.nn.functional as F

from clip_decomp.attacks.triggers import make_trigger
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.evaluation import evaluate
from clip_decomp.model import HookedCLIP
from clip_decomp.training.architecture import Architecture, build
from defenses import CBPT, invert_trigger
from defenses.inversion import Inversion

NAMES = ("apple", "pear", "plum", "fig")


def tiny(**changes):
    settings = {"length": 2, "shots": 2, "epochs": 3, "warmup": 1, "batch_size": 3, "lr": 0.05, "bf16": False}
    return CBPT(**{**settings, "inversion": Inversion(steps=2), "progress": False, **changes})


@pytest.fixture
def pictures(model):
    return model.normalize(torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def labels():
    return torch.arange(12) % 4


def unit(model, pixels):
    return model.encode_image(pixels, normalize=True).detach()


def loss_of(model, images, noise, positive):
    """The inner loop's loss, written out."""
    std = torch.tensor(model.std)[:, None, None]
    features, scale = unit(model, images + noise / std), model.logit_scale.detach()
    near, stay = (features * positive).sum(1) * scale, (features * unit(model, images)).sum(1) * scale
    return -(near.exp() / (near.exp() + stay.exp())).log()


@pytest.mark.parametrize(("norm", "budget", "lr"), [("l2", 1.0, 0.05), ("linf", 0.02, 0.25)])
def test_noise_takes_pictures_towards_the_positive_within_its_budget(model, pictures, norm, budget, lr):
    positive = unit(model, pictures[6:])
    settings = Inversion(steps=8, norm=norm, budget=budget, lr=lr)
    noise = invert_trigger(model, pictures[:6], positive, settings, bf16=False)
    before, after = (loss_of(model, pictures[:6], each, positive) for each in (torch.zeros_like(noise), noise))
    assert (after < before - 0.01).all()
    size = noise.flatten(1).norm(dim=1) if norm == "l2" else noise.abs().flatten(1).amax(1)
    assert size.max() <= budget * (1 + 1e-5)
    changed = (pictures[:6] + noise / torch.tensor(model.std)[:, None, None]) * torch.tensor(model.std)[:, None, None]
    pixels = changed + torch.tensor(model.mean)[:, None, None]
    assert pixels.min() > -1e-5
    assert pixels.max() < 1 + 1e-5
    assert all(each.requires_grad for each in model.clip.parameters())


def test_a_step_is_the_gradient_of_the_loss(model, pictures):
    positive = unit(model, pictures[1:2])
    noise = invert_trigger(model, pictures[:1], positive, Inversion(steps=1, lr=0.01, budget=9.0), bf16=False)
    start = torch.zeros_like(noise, requires_grad=True)
    std = torch.tensor(model.std)[:, None, None]
    features, scale = model.encode_image(pictures[:1] + start / std, normalize=True), model.logit_scale.detach()
    near, stay = (features * positive).sum() * scale, (features * unit(model, pictures[:1])).sum() * scale
    (gradient,) = torch.autograd.grad(-torch.log_softmax(torch.stack([near, stay]), 0)[0], start)
    inside = (noise + 0.01 * gradient).abs() < 1e-6  # the rest stopped at black or white
    assert inside.float().mean() > 0.95


def test_pictures_do_not_see_each_other_and_a_universal_noise_serves_all(model, pictures):
    positive = unit(model, pictures[3:])
    together = invert_trigger(model, pictures[:2], positive[:2], bf16=False)
    alone = invert_trigger(model, pictures[1:2], positive[1:2], bf16=False)
    torch.testing.assert_close(together[1:], alone, rtol=1e-3, atol=1e-4)
    shared = invert_trigger(model, pictures, "pear", Inversion(lr=5.0), universal=True, bf16=False)
    assert shared.shape == (1, 3, 32, 32)
    goal = model.encode_text(["a photo of a pear."], normalize=True).detach()
    losses = [loss_of(model, pictures, each, goal).mean() for each in (torch.zeros_like(shared), shared)]
    assert losses[1] < losses[0]


def test_positives_are_the_farthest_the_nearest_or_any_of_the_class_aimed_at():
    bank = F.normalize(torch.tensor([[1.0, 0.1], [1.0, 1.0], [0.1, 1.0], [-1.0, 0.0]]), dim=-1)
    labels, wanted, feature = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1]), torch.tensor([[1.0, 0.0]] * 2)
    generator = torch.Generator().manual_seed(0)
    found = {
        which: Inversion(positives=which).positive(feature, wanted, bank, labels, generator)
        for which in ("farthest", "nearest")
    }
    assert torch.equal(found["farthest"], bank[[2, 3]])
    assert torch.equal(found["nearest"], bank[[0, 3]])
    drawn = [Inversion(positives="random").positive(feature, wanted, bank, labels, generator)[0] for _ in range(30)]
    assert {tuple(each.tolist()) for each in drawn} == {tuple(each.tolist()) for each in bank[:3]}
    with pytest.raises(DataError, match="no clean picture of class 2"):
        Inversion().positive(feature, torch.tensor([0, 2]), bank, labels, generator)


def test_the_outer_loss_is_the_equation(model, pictures, labels):
    """One step from known prompts moves them along the gradient of the loss written out."""
    settings = {"epochs": 1, "warmup": 0, "batch_size": 8, "momentum": 0.0, "lr": 1e-3, "weight_align": 0.3}
    cbpt = tiny(**settings).fit(model, pictures, labels, NAMES)
    prompts = type(cbpt.prompts_)(model, NAMES, 2, seed=0)
    start = prompts.context.detach().clone()
    rows = cbpt.chosen_
    images, truth, scale = pictures[rows], labels[rows], model.logit_scale.detach()
    bank, vectors = unit(model, images), prompts.vectors()
    clean = (scale * bank @ vectors.T).log_softmax(1)
    wanted = torch.stack([max((p, c) for c, p in enumerate(row) if c != y)[1] * torch.ones((), dtype=torch.long)
                          for row, y in zip(clean.detach(), truth, strict=True)])  # fmt: skip
    positive = torch.stack([
        min(bank[truth == goal], key=lambda each, own=feature: float(own @ each))
        for feature, goal in zip(bank, wanted, strict=True)
    ])  # fmt: skip
    noise = invert_trigger(model, images, positive, Inversion(steps=2), bf16=False)
    bad = (scale * unit(model, images + noise / torch.tensor(model.std)[:, None, None]) @ vectors.T).log_softmax(1)
    loss = torch.zeros(())
    for i, (y, goal) in enumerate(zip(truth, wanted, strict=True)):
        loss = loss - clean[i, y] - bad[i, y] - 0.4 * torch.log(1 - bad[i, goal].exp())
        given = clean[i].detach()
        loss = loss + 0.3 * given[y].exp() * (given.exp() * (given - bad[i])).sum()
    (loss / 8).backward()
    torch.testing.assert_close(cbpt.prompts_.context, start - 1e-3 * prompts.context.grad, rtol=1e-4, atol=1e-7)


def test_tuning_lowers_the_losses_and_leaves_the_model_alone(model, pictures, labels, unchanged):
    check = unchanged(model.clip)
    cbpt = tiny(epochs=12, warmup=4).fit(model, pictures, labels, NAMES)
    assert check()
    assert all(each.requires_grad for each in model.clip.parameters())
    warm, first, last = cbpt.history_[:4], cbpt.history_[4], cbpt.history_[-1]
    assert all(set(each) == {"cross_entropy", "seconds"} for each in warm)
    assert warm[-1]["cross_entropy"] < warm[0]["cross_entropy"]
    assert last["cross_entropy"] < first["cross_entropy"]
    again = tiny(epochs=12, warmup=4).fit(model, pictures, labels, NAMES)
    assert torch.equal(again.prompts_.context, cbpt.prompts_.context)


def test_it_is_evaluated_with_its_own_classes_and_with_the_triggers_word(model, toy, pictures, labels, monkeypatch):
    cbpt = tiny().fit(model, pictures, labels, NAMES)
    found = evaluate(cbpt, toy, make_trigger("badnet"), "fig")
    with torch.no_grad():
        pixels, truth = toy.load()
        guesses = (unit(model, model.normalize(pixels.float() / 255)) @ cbpt.prompts_.vectors().T).argmax(1)
    assert found.clean_accuracy.value == pytest.approx((guesses == truth).float().mean().item())
    asked, vectors = [], cbpt.class_vectors
    monkeypatch.setattr(cbpt, "class_vectors", lambda word="": asked.append(word) or vectors(word))
    evaluate(cbpt, toy, make_trigger("trojvqa", patch="ff" * 12), "fig")
    assert asked == ["", "SUDO "]
    assert not torch.allclose(vectors("SUDO "), vectors())
    other = ImageSet("other", ("a", "b", "c", "d"), truth, TensorSource(pixels))
    with pytest.raises(DataError, match="other classes"):
        evaluate(cbpt, other)


def test_saved_contexts_and_interrupted_runs(model, pictures, labels, tmp_path):
    cbpt = tiny(checkpoint=tmp_path / "run").fit(model, pictures, labels, NAMES)
    cbpt.save(tmp_path / "prompts")
    again = CBPT.load(tmp_path / "prompts", model)
    assert torch.equal(again.class_vectors(), cbpt.class_vectors())
    assert again.settings() == cbpt.settings()
    with pytest.raises(SettingError, match="another run"):
        tiny(checkpoint=tmp_path / "run", inversion=Inversion(steps=3)).fit(model, pictures, labels, NAMES)
    with pytest.raises(SettingError, match=r"another run.*pictures"):
        tiny(checkpoint=tmp_path / "run").fit(model, pictures + 0.1, labels, NAMES)
    card = next(tmp_path.glob("prompts/*.json"))
    older = {"epochs": 3, "warmup": 3, "inversion": {"norm": "linf", "budget": 2.0}}  # what nobody may ask for any more
    card.write_text(json.dumps(json.loads(card.read_text()) | {"settings": older}))
    assert (CBPT.load(tmp_path / "prompts", model).warmup, CBPT.load(tmp_path / "prompts", model).epochs) == (3, 3)
    with pytest.raises(ModelError, match="holds no prompts"):
        CBPT.load(tmp_path / "run", model)
    with torch.no_grad():
        model.clip.visual.proj.add_(1)
    with pytest.raises(ModelError, match="another image tower"):
        CBPT.load(tmp_path / "prompts", model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny(warmup=-1), "warmup and weights >= 0"),
        (lambda: tiny(warmup=3), "3 epochs of warm-up leave none of 3"),
        (lambda: tiny(aim="pear"), "no inner loop to set"),
        (lambda: tiny(weight_bd=-1.0), "weights >= 0"),
        (lambda: tiny(position="back"), "front, middle or end"),
        (lambda: tiny(shots=0), "shots must be 1"),
        (lambda: tiny(epochs=0), "epochs and batch_size"),
        (lambda: Inversion(steps=0), "steps >= 1"),
        (lambda: Inversion(norm="l1"), "Unknown norm 'l1'"),
        (lambda: Inversion(norm="linf", budget=2.0), "no bound"),
        (lambda: Inversion(positives="best"), "positives 'best'"),
    ],
)
def test_settings_out_of_range_are_named_at_once(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_a_resnet_is_tuned_as_any_other(tokenizer, labels, tmp_path):
    sizes = Architecture(
        layers=(1, 1, 1, 1), width=8, heads=4, vocab_size=tokenizer.vocab_size, context_length=tokenizer.context_length
    )
    resnet = HookedCLIP(build(sizes, seed=0).eval(), tokenizer, (0.5,) * 3, (0.25,) * 3)
    pixels = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cbpt = tiny().fit(resnet, resnet.normalize(pixels), labels, NAMES)
    assert cbpt.history_[-1]["backdoor"] > 0
    cbpt.save(tmp_path)
    assert torch.equal(CBPT.load(tmp_path, resnet).class_vectors(), cbpt.class_vectors())


def test_bad_classes_are_named_before_training(model, pictures, labels):
    with pytest.raises(DataError, match="'plum' has 3 pictures, and 4"):
        tiny(shots=4).fit(model, pictures, labels, ("plum", "pear", "apple", "fig"))
    with pytest.raises(SettingError, match="named once"):
        tiny().fit(model, pictures, labels, ("apple", "pear", "apple", "fig"))
    with pytest.raises(SettingError, match="context has room"):
        tiny().fit(model, pictures, labels, ("apple", "pear", "p" * 40, "fig"))
