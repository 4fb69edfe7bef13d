"""RVPT: its losses against the equations written out, and tuning on tiny models."""

import json

import pytest
import torch

from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, ModelError, SettingError, TrainingFailed
from clip_decomp.zeroshot import class_vectors
from defenses import RVPT
from defenses.few_shot import few_shot
from defenses.prefix import Prefix
from defenses.published import published_rvpt_loss

NAMES = ("apple", "pear", "plum", "fig")


def tiny(**changes):
    settings = {"length": 3, "shots": 2, "epochs": 3, "batch_size": 3, "bf16": False, "progress": False}
    return RVPT(**{**settings, **changes})


@pytest.fixture
def pictures():
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.arange(12) % 4


@pytest.mark.parametrize(
    ("changes", "blocks"),
    [
        ({}, (0, 1, 2)),
        ({"depth": 2}, (1, 2)),
        ({"depth": 2, "count_from": "input"}, (0, 1)),
        ({"margin": 0.9}, (0, 1, 2)),
    ],
)
def test_a_step_has_the_loss_and_gradient_of_the_equations(model, pictures, labels, changes, blocks):
    rvpt = tiny(epochs=1, **changes).fit(model, pictures, labels, NAMES)
    prompts, vectors = rvpt.prompts_.requires_grad_(True), class_vectors(model, NAMES)
    assert prompts.blocks == blocks
    expected = published_rvpt_loss(model, prompts, pictures, labels, vectors, 2.0, changes.get("margin", -1.0))
    expected.backward()
    gradient, prompts.prompts.grad = prompts.prompts.grad, None
    prefix = Prefix.of(model.visual, pictures, blocks[0])
    loss = rvpt.losses(prefix.residual, prefix.targets, labels, vectors).total(alpha=2.0)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prompts.prompts.grad, gradient, rtol=1e-3, atol=1e-4)


def test_tuning_lowers_both_losses_and_leaves_the_model_alone(model, pictures, labels):
    before = model.encode_image(pictures)
    weights = {key: value.clone() for key, value in model.clip.state_dict().items()}
    rvpt = tiny(epochs=12, lr=0.02, alpha=1.0).fit(model, pictures, labels, NAMES)
    first, last = rvpt.history_[0], rvpt.history_[-1]
    assert last["cosine"] < first["cosine"] - 0.1
    assert last["cross_entropy"] < first["cross_entropy"]
    assert torch.equal(model.encode_image(pictures), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.clip.state_dict().items())
    assert all(each.requires_grad for each in model.clip.parameters())
    torch.testing.assert_close(rvpt.encode_image(pictures), rvpt.hooked.encode_image(pictures), rtol=1e-4, atol=1e-4)


def test_without_alpha_it_is_vpt_and_repels_nothing(model, pictures, labels):
    vpt = tiny(alpha=0, epochs=12, lr=0.02).fit(model, pictures, labels, NAMES)
    rvpt = tiny(alpha=2, epochs=12, lr=0.02).fit(model, pictures, labels, NAMES)
    unmoved = tiny(alpha=2, epochs=12, lr=0.02, margin=1.0).fit(model, pictures, labels, NAMES)
    assert vpt.history_[-1]["cross_entropy"] < rvpt.history_[-1]["cross_entropy"]
    assert vpt.history_[-1]["cosine"] > rvpt.history_[-1]["cosine"]
    torch.testing.assert_close(unmoved.prompts_.prompts, vpt.prompts_.prompts)  # a margin of 1 repels nothing


def test_the_same_seed_tunes_the_same_prompts_wherever_streams_are_kept(model, pictures, labels, tmp_path):
    found = [
        tiny(seed=1, cache=file).fit(model, pictures, labels, NAMES).prompts_.prompts
        for file in (None, None, tmp_path / "streams" / "cache.bin")
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (tmp_path / "streams" / "cache.bin").stat().st_size == 8 * 17 * 32 * 4
    other = tiny(seed=2).fit(model, pictures, labels, NAMES)
    assert not torch.equal(other.prompts_.prompts, found[0])


def test_an_interrupted_run_goes_on_to_the_same_prompts(model, pictures, labels, tmp_path, monkeypatch):
    whole = tiny(checkpoint=tmp_path / "whole").fit(model, pictures, labels, NAMES)
    steps, step = [], torch.optim.SGD.step

    def interrupted(optimizer):
        steps.append(1)
        if len(steps) == 8:  # in the third of three epochs of three steps
            raise KeyboardInterrupt
        return step(optimizer)

    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny(checkpoint=tmp_path / "parts").fit(model, pictures, labels, NAMES)
    assert all(each.requires_grad for each in model.clip.parameters())
    again = tiny(checkpoint=tmp_path / "parts").fit(model, pictures, labels, NAMES)
    assert len(steps) == 8 + 3
    assert torch.equal(again.prompts_.prompts, whole.prompts_.prompts)
    for found, expected in zip(again.history_, whole.history_, strict=True):
        assert {**found, "seconds": 0} == {**expected, "seconds": 0}
        assert found["seconds"] > 0
    with pytest.raises(SettingError, match=r"another run.*templates"):
        tiny(checkpoint=tmp_path / "parts").fit(model, pictures, labels, NAMES, templates=("no {}",))
    with pytest.raises(SettingError, match=r"another run.*alpha is 2.0 there and 1.0 here"):
        tiny(alpha=1.0, checkpoint=tmp_path / "parts").fit(model, pictures, labels, NAMES)


def test_augmentation_sees_every_picture_anew(model, pictures, labels):
    seen = []

    def flip(batch, generator):
        seen.append(len(batch))
        return batch.flip(-1) if torch.rand((), generator=generator) < 0.5 else batch

    plain = tiny().fit(model, pictures, labels, NAMES)
    same = tiny().fit(model, pictures, labels, NAMES, augment=lambda batch, generator: batch)
    flipped = tiny().fit(model, pictures, labels, NAMES, augment=flip)
    torch.testing.assert_close(same.prompts_.prompts, plain.prompts_.prompts)
    assert not torch.allclose(flipped.prompts_.prompts, plain.prompts_.prompts)
    assert seen == [3, 3, 2] * 3


def test_a_data_set_brings_names_labels_and_templates(model, pictures, labels):
    stored = ((pictures.clamp(-2, 2) + 2) / 4 * 255).to(torch.uint8)
    data = ImageSet("toy", NAMES, labels, TensorSource(stored), templates=("a photo of a {}.",))
    from_set = tiny().fit(model, data)
    by_hand = tiny().fit(model, model.normalize(stored.float() / 255), labels, NAMES)
    torch.testing.assert_close(from_set.prompts_.prompts, by_hand.prompts_.prompts)


def test_a_class_left_out_is_not_tuned_on(model, pictures, labels):
    rvpt = tiny(shots=None).fit(model, pictures, labels, NAMES, without=["pear"])
    assert len(rvpt.chosen_) == 9
    assert 1 not in labels[rvpt.chosen_]


def test_saved_prompts_work_on_their_model_alone(model, pictures, labels, tmp_path, make_clip, tokenizer):
    rvpt = tiny().fit(model, pictures, labels, NAMES)
    rvpt.save(tmp_path)
    card = json.loads((tmp_path / "prompts.json").read_text())
    assert card["defense"] == "rvpt"
    assert card["settings"]["alpha"] == 2.0
    loaded = RVPT.load(tmp_path, model)
    assert torch.equal(loaded.encode_image(pictures), rvpt.encode_image(pictures))
    assert loaded.settings() == rvpt.settings()
    model.clip.visual.proj.data += 0.1
    with pytest.raises(ModelError, match="made for another image tower"):
        RVPT.load(tmp_path, model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "shots must be 1 or more"),
        ({"alpha": -1}, "alpha >= 0"),
        ({"margin": 2}, "margin in -1..1"),
        ({"count_from": "middle"}, "output or input"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_settings_out_of_range_are_named_at_once(settings, message):
    with pytest.raises(SettingError, match=message):
        tiny(**settings)


def test_bad_data_is_named_before_training(model, pictures, labels):
    with pytest.raises(SettingError, match="all 3 blocks of this tower can be prompted, not 4"):
        tiny(depth=4).fit(model, pictures, labels, NAMES)
    with pytest.raises(SettingError, match="need as many labels"):
        tiny().fit(model, pictures, labels[:3], NAMES)
    with pytest.raises(DataError, match=r"Labels must be in 0\.\.2 for 3 classes, and are in 0\.\.3"):
        tiny().fit(model, pictures, labels, NAMES[:3])
    with pytest.raises(DataError, match="Class 'fig' has 3 pictures, and 4 are asked for"):
        tiny(shots=4).fit(model, torch.cat([pictures, pictures[:3]]), torch.cat([labels, labels[:3]]), NAMES)
    with pytest.raises(DataError, match="Class 'quince' has 0 pictures"):
        tiny().fit(model, pictures, labels, (*NAMES, "quince"))
    with pytest.raises(SettingError, match=r"\['quince'\] are not"):
        tiny().fit(model, pictures, labels, NAMES, without=["quince"])


def test_a_loss_that_is_not_finite_stops_the_run(model, pictures, labels):
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        tiny(lr=1e30, epochs=9).fit(model, pictures, labels, NAMES)
    assert all(each.requires_grad for each in model.clip.parameters())


def test_few_shots_are_spread_over_classes():
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    chosen = few_shot(labels, ["a", "b", "c"], 2, seed=3)
    assert labels[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    without = few_shot(labels, ["a", "b", "c"], 2, seed=3, without=["a"])
    assert torch.equal(without, chosen[labels[chosen] != 0])
    assert torch.equal(few_shot(labels, ["a", "b", "c"], None), torch.arange(9))
    with pytest.raises(DataError, match="Fewer than two classes"):
        few_shot(labels, ["a", "b", "c"], 1, without=["a", "b"])
