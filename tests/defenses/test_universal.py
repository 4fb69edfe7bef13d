"""Universal noise: it finds a shortcut that is known, and what defenses learn from is what it made of pictures."""

import json
import logging
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from clip_decomp.errors import DataError, SettingError
from clip_decomp.zeroshot import class_vectors
from defenses import CBPT, RVPT, universal
from defenses import rvpt as rvpt_module
from defenses.few_shot import FewShots
from defenses.universal import BEYOND, ORDERS, Universal, beside, towards, under

from .shortcut import NAMES, PLANTED

FAST = Universal(batch_size=6, growth=1.3, bf16=False)


def chosen(model, pixels):
    return FewShots.of(model, model.normalize(pixels[:20]), torch.arange(20) % 5, NAMES, 4)


def test_it_goes_the_shortcuts_way_and_further_where_it_may_be_larger(planted, pixels):
    vectors = class_vectors(planted, NAMES)
    found = FAST.noises(planted, pixels, vectors, PLANTED, beyond=(1.5, 2.0))
    assert [each.reached for each in found] == [True] * 3
    assert [each.norm / found[0].norm for each in found] == pytest.approx([1, 1.5, 2])
    sizes = [each.pixels.square().mean().sqrt().item() for each in found]
    assert all(0 < size <= 1.001 * each.norm for size, each in zip(sizes, found, strict=True))
    assert FAST.lowest < found[0].norm < FAST.highest
    for each in found:
        way = each.pixels / torch.tensor(planted.std)[:, None, None]
        assert (way * planted.pattern).sum() / way.norm() > 0.5
        taken = FAST.cosines(planted, pixels + each.pixels, vectors).argmax(1) == PLANTED
        assert taken.float().mean() > 0.8
    assert torch.equal(found[0].pixels, FAST.noises(planted, pixels, vectors, PLANTED)[0].pixels)


def test_a_class_out_of_reach_is_given_up_at_the_highest_norm(planted, pixels):
    (found,) = Universal(batch_size=6, highest=0.004, bf16=False).noises(
        planted, pixels, class_vectors(planted, NAMES), 0
    )
    assert (found.reached, found.norm) == (False, 0.004)
    assert found.pixels.square().mean().sqrt() <= 0.004001
    assert not found.pixels.requires_grad


def test_noises_are_made_on_other_classes_pictures_and_kept(planted, pixels, tmp_path, monkeypatch):
    shots, made, inner = chosen(planted, pixels), [], Universal.noises

    def listening(self, model, some, vectors, label, *rest):
        made.append((len(some), label, self.seed))
        return inner(self, model, some, vectors, label, *rest)

    monkeypatch.setattr(Universal, "noises", listening)
    found = towards(planted, shots, "fig", seed=7, bf16=False, folder=tmp_path)
    assert made == [(16, PLANTED, 7 + order) for order in range(ORDERS)]
    assert found.shape == (ORDERS * (1 + len(BEYOND)), 3, 32, 32)
    assert torch.equal(towards(planted, shots, "fig", seed=7, bf16=False, folder=tmp_path), found)
    assert len(made) == ORDERS
    other = towards(planted, shots, "fig", seed=8, bf16=False, folder=tmp_path)
    assert len(made) == 2 * ORDERS
    assert not torch.equal(other, found)


def test_a_suspect_that_is_out_of_reach_is_said_and_an_unknown_one_refused(model, pixels, caplog, monkeypatch):
    monkeypatch.setattr(universal, "Universal", lambda **given: Universal(**{**given, "highest": 0.004}))
    with caplog.at_level(logging.WARNING):
        towards(model, chosen(model, pixels), "apple", bf16=False)
    assert "is it the right suspect" in caplog.text
    with pytest.raises(DataError, match=r"no class 'figs'.*fig"):
        towards(model, chosen(model, pixels), "figs")


def test_pictures_under_noises_are_sums_cut_to_pixels_and_noises_take_turns(model, pixels):
    noises = torch.stack([torch.full((3, 32, 32), 0.3), torch.full((3, 32, 32), -0.3)])
    found = model.denormalize(under(model, model.normalize(pixels[:3]), noises, torch.tensor([4, 5, 7])))
    expected = torch.stack([pixels[0] + 0.3, pixels[1] - 0.3, pixels[2] - 0.3]).clamp(0, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    shots = chosen(model, pixels)
    both = beside(model, shots, [noises])
    assert torch.equal(both.images[:20], shots.images)
    assert torch.equal(both.images[20:], under(model, shots.images, noises, torch.arange(20)))
    assert torch.equal(both.labels, shots.labels.repeat(2))


def test_aimed_cbpt_descends_the_push_of_other_classes_pictures_under_noise(planted, pixels):
    """One step from known prompts moves them along the gradient of the loss written out."""
    settings = {"epochs": 1, "warmup": 0, "batch_size": 20, "momentum": 0.0, "lr": 1e-3, "shots": 4}
    cbpt = CBPT.aimed("fig", **settings, words=None, length=2, bf16=False, progress=False)
    images, labels = planted.normalize(pixels[:20]), torch.arange(20) % 5
    cbpt.fit(planted, images, labels, NAMES)
    prompts = type(cbpt.prompts_)(planted, NAMES, 2, seed=0)
    start, scale = prompts.context.detach().clone(), planted.logit_scale.detach()
    noises = towards(planted, FewShots.of(planted, images, labels, NAMES, 4), "fig", bf16=False)
    with torch.no_grad():
        clean = planted.encode_image(images, normalize=True)
        noisy = planted.encode_image(under(planted, images, noises, torch.arange(20)), normalize=True)
    vectors = prompts.vectors()
    loss = F.cross_entropy(scale * clean @ vectors.T, labels, reduction="sum")
    for feature, truth in zip(noisy, labels, strict=True):
        if truth != PLANTED:
            loss = loss - 0.2 * torch.log1p(-(scale * feature @ vectors.T).softmax(0)[PLANTED])
    (gradient,) = torch.autograd.grad(loss / 20, prompts.context)
    torch.testing.assert_close(cbpt.prompts_.context, start - 1e-3 * gradient, rtol=1e-3, atol=1e-6)
    assert cbpt.history_[0]["cross_entropy"] > 0


def test_aimed_rvpt_keeps_class_tokens_of_pictures_under_noise_where_they_are_without(model, pixels, monkeypatch):
    seen, inner = [], RVPT.losses

    def listening(self, stream, targets, labels, vectors):
        seen.append((stream, targets, labels))
        return inner(self, stream, targets, labels, vectors)

    monkeypatch.setattr(rvpt_module.RVPT, "losses", listening)
    given = {"length": 2, "shots": 4, "batch_size": 40, "epochs": 6, "bf16": False, "progress": False}
    images, labels = model.normalize(pixels[:20]), torch.arange(20) % 5
    aimed = RVPT.aimed("fig", **given).fit(model, images, labels, NAMES)
    stream, targets, truth = seen[0]
    pairs = {}
    for row, target, label in zip(stream, targets, truth, strict=True):
        pairs.setdefault(target.numpy().tobytes(), []).append((row, label))
    assert len(pairs) == 20
    assert all(len(each) == 2 and each[0][1] == each[1][1] for each in pairs.values())
    assert sum(torch.equal(each[0][0], each[1][0]) for each in pairs.values()) == 0
    cosines = [epoch["cosine"] for epoch in aimed.history_]
    assert cosines[-1] > cosines[0]
    assert aimed.settings()["alpha"] < 0


def test_later_rounds_learn_from_noise_against_the_prompts_of_the_round_before(planted, pixels, monkeypatch, tmp_path):
    made, tuned, inner = [], [], RVPT._tune
    two, images, labels = planted.normalize(pixels[:2]), planted.normalize(pixels[:20]), torch.arange(20) % 5

    def making(model, chosen, suspect, seed, bf16, folder, largest, progress):
        made.append((model.encode_image(two), seed, folder, largest))
        return torch.full((2, 3, 32, 32), 0.01 * len(made))

    def listening(self, chosen, *rest):
        inner(self, chosen, *rest)
        tuned.append((planted.denormalize(chosen.images), self.prompts_.on(planted, keys=True).encode_image(two)))

    monkeypatch.setattr(rvpt_module, "towards", making)
    monkeypatch.setattr(RVPT, "_tune", listening)
    given = {"length": 2, "shots": 4, "epochs": 1, "bf16": False, "progress": False, "seed": 7}
    aimed = RVPT.aimed("fig", **given, rounds=3, checkpoint=tmp_path).fit(planted, images, labels, NAMES)
    assert [each[1:3] for each in made] == [
        (7, tmp_path),
        (7 + ORDERS, tmp_path / "round-2"),
        (7 + 2 * ORDERS, tmp_path / "round-3"),
    ]
    assert made[0][3] is None
    assert [each[3] for each in made[1:]] == pytest.approx([0.01, 0.01])
    against = [planted.encode_image(two), tuned[0][1], tuned[1][1]]
    assert all(torch.equal(each[0], features) for each, features in zip(made, against, strict=True))
    assert not torch.equal(against[1], against[2])
    assert torch.equal(aimed.encode_image(two), tuned[2][1])
    added = (tuned[2][0].unflatten(0, (4, 20)) - tuned[2][0][:20]).amax((2, 3, 4))
    torch.testing.assert_close(added, 0.01 * torch.arange(4.0)[:, None].expand(4, 20), atol=1e-5, rtol=0)


def test_rounds_that_are_interrupted_go_on_to_the_same_prompts_and_those_of_another_run_go(
    planted, pixels, monkeypatch, tmp_path
):
    images, labels, inner, stop = planted.normalize(pixels[:20]), torch.arange(20) % 5, RVPT.losses, []
    monkeypatch.setattr(universal, "ORDERS", 1)
    monkeypatch.setattr(universal, "Universal", partial(Universal, batch_size=6, growth=3))

    def counted(self, *rest):
        stop.append(1)
        if len(stop) == 5:
            raise KeyboardInterrupt
        return inner(self, *rest)

    def aimed(folder, **changes):
        given = {"length": 2, "shots": 4, "epochs": 3, "rounds": 2, "batch_size": 100, "bf16": False, **changes}
        return RVPT.aimed("fig", **given, progress=False, checkpoint=folder)

    def tuned(folder=None, **changes):
        return aimed(folder, **changes).fit(planted, images, labels, NAMES).prompts_.prompts

    whole, other = tuned(), tuned(lr=0.1)
    monkeypatch.setattr(RVPT, "losses", counted)
    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path)
    assert (tmp_path / "round-2" / "checkpoint.json").exists()
    again = aimed(tmp_path).fit(planted, images, labels, NAMES)
    assert torch.equal(again.prompts_.prompts, whole)
    assert len(stop) == 3 + 1 + 1 + 2
    logs = [json.loads((folder / "checkpoint.json").read_text()) for folder in (tmp_path, tmp_path / "round-2")]
    spent = [log["history"][-1]["seconds"] for log in logs]
    assert again.history_[-1]["seconds"] == pytest.approx(sum(spent))
    assert min(spent) > 0
    with pytest.raises(SettingError, match="another run"):
        tuned(tmp_path, lr=0.1)
    (tmp_path / "checkpoint.json").unlink()
    assert torch.equal(tuned(tmp_path, lr=0.1), other)


def test_noise_against_a_defended_model_is_no_larger_than_said_and_goes_on_there(planted, pixels, caplog):
    shots = chosen(planted, pixels)
    with caplog.at_level(logging.WARNING):
        found = towards(planted, shots, "fig", bf16=False, largest=0.004)
    assert found.shape == (2 * ORDERS, 3, 32, 32)
    assert found.square().mean((1, 2, 3)).sqrt().max() <= 0.00401
    assert not any(torch.equal(first, more) for first, more in found.unflatten(0, (ORDERS, 2)))
    assert not caplog.text


def test_aimed_defenses_that_cannot_be(model, pixels):
    images, labels = model.normalize(pixels[:20]), torch.arange(20) % 5
    with pytest.raises(SettingError, match="leave augment out"):
        RVPT.aimed("fig", shots=2, progress=False).fit(model, images, labels, NAMES, augment=lambda some, _: some)
    with pytest.raises(SettingError, match="'fig', so that class cannot be left out"):
        RVPT.aimed("fig", shots=2, progress=False).fit(model, images, labels, NAMES, without=["fig"])
    with pytest.raises(DataError, match=r"no class 'fog'"):
        RVPT.aimed("fog", shots=2, progress=False).fit(model, images, labels, NAMES)
    with pytest.raises(SettingError, match="alpha >= 0"):
        RVPT(alpha=-1)
    with pytest.raises(SettingError, match="one round"):
        RVPT(rounds=2)
    with pytest.raises(SettingError, match="one round"):
        RVPT.aimed("fig", rounds=0)
