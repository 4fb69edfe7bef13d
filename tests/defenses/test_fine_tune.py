"""FT and CleanCLIP: finite budgets, the loss written out, and that the model itself stays."""

import copy

import pytest
import torch
import torch.nn.functional as F

from clip_decomp.data.pairs import SILENT, FirstPairs, PairBatch
from clip_decomp.errors import DataError, SettingError, TrainingFailed
from clip_decomp.training.parallel import Processes
from clip_decomp.training.settings import TrainSettings
from defenses import CleanCLIP, FineTune
from defenses.fine_tune import CleanCLIPStep, augmented, reworded

NAMES = ("apple", "pear", "plum", "fig")


class Pairs:
    """Random pictures of four classes, with captions of two words of their own."""

    def __init__(self, length=None):
        self.length = length

    def batch(self, step, size, part=slice(None)):
        generator = torch.Generator().manual_seed(step)
        labels = torch.randint(4, (size,), generator=generator)
        images = torch.randint(256, (size, 3, 32, 32), generator=generator, dtype=torch.uint8)
        images = images // 4 + (labels * 48).to(torch.uint8)[:, None, None, None]
        facts = torch.stack([labels, torch.arange(size)], 1)
        captions = [f"a photo of a {NAMES[label]}." for label in labels.tolist()]
        said = facts.clone()
        said[:, 1] = SILENT
        return PairBatch(captions[part], facts[part], said[part], torch.arange(size)[part], images[part])


def tiny(kind, **changes):
    settings = {"pairs": 24, "epochs": 4, "batch_size": 8, "lr": 1e-3, "bf16": False, "progress": False}
    return kind(**{**settings, **changes})


@pytest.mark.parametrize("kind", [FineTune, CleanCLIP])
def test_a_copy_is_tuned_and_the_model_stays(kind, model, unchanged):
    check = unchanged(model.clip)
    tuned = tiny(kind, epochs=20).fit(model, Pairs())
    assert check()
    seen = Pairs().batch(0, 24)
    pixels = model.normalize(seen.images.float() / 255)
    guesses = tuned.hooked.zero_shot(pixels, NAMES).argmax(1)
    assert (guesses == seen.truth[:, 0]).float().mean() > 0.9
    images = torch.zeros(1, 3, 32, 32)
    assert not torch.allclose(tuned.encode_image(images), model.encode_image(images))
    assert not torch.allclose(tuned.encode_text(["a pear"]), model.encode_text(["a pear"]))
    assert tuned.hooked.card["defense"]["name"] == kind.name
    assert tuned.parameters == sum(each.numel() for each in model.clip.parameters())
    again = tiny(kind, epochs=20).fit(model, Pairs())
    assert torch.equal(again.encode_image(images), tuned.encode_image(images))


def test_the_budget_is_finite_and_passed_over_in_other_orders():
    kept = FirstPairs(Pairs(), 10, seed=1)
    rows = torch.cat([kept.batch(step, 4).rows for step in range(5)])
    assert kept.length == 10
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    whole, part = kept.batch(2, 4), kept.batch(2, 4, slice(1, 3))
    assert torch.equal(whole.images[1:3], part.images)
    assert whole.captions[1:3] == part.captions
    described = kept.describe(2, 4)
    assert described.captions == whole.captions
    assert torch.equal(described.said, whole.said)
    first = Pairs().batch(0, 10)
    assert torch.equal(whole.images, first.images[whole.rows])
    with pytest.raises(DataError, match="There are 5 pairs, and 10 are asked for"):
        FirstPairs(Pairs(length=5), 10)


def step_of(kind, clip, model, **changes):
    settings = TrainSettings(**{"steps": 4, "batch_size": 6, "bf16": False, **changes})
    return kind(clip, model.tokenizer, model.normalize, Pairs(), settings, Processes())


def test_cleanclips_loss_is_the_equation(model):
    clip = copy.deepcopy(model.clip)
    step = step_of(CleanCLIPStep, clip, model)
    loss = step(3)
    batch = Pairs().batch(3, 6)
    features = step.encode(batch, slice(0, 6), 0, 3)
    images, texts, other_images, other_texts = features
    assert all(torch.allclose(each.norm(dim=1), torch.ones(6)) for each in features)
    scale, own = clip.logit_scale.exp(), torch.arange(6)

    def info_nce(a, b):
        return (F.cross_entropy(scale * a @ b.T, own) + F.cross_entropy(scale * b @ a.T, own)) / 2

    positive = batch.truth[:, None, 0] == batch.truth[None, :, 0]
    shared = positive / positive.sum(1, keepdim=True)
    cross = (F.cross_entropy(scale * images @ texts.T, shared) + F.cross_entropy(scale * texts @ images.T, shared)) / 2
    expected = cross + (info_nce(images, other_images) + info_nce(texts, other_texts)) / 2
    torch.testing.assert_close(loss, expected.detach())


def test_micro_batches_of_cleanclip_give_the_gradients_of_the_whole_batch(model):
    found = []
    for accumulate in (1, 3):
        clip = copy.deepcopy(model.clip)
        step_of(CleanCLIPStep, clip, model, accumulate=accumulate)(0)
        found.append(torch.cat([each.grad.flatten() for each in clip.parameters() if each.grad is not None]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)


def test_augmentation_depends_on_the_seed_alone():
    images = Pairs().batch(0, 6).images
    state = torch.get_rng_state()
    whole = augmented(images, list(range(6)))
    assert torch.equal(torch.get_rng_state(), state)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape
    assert not torch.equal(whole, images)
    assert torch.equal(augmented(images[2:4], [2, 3]), whole[2:4])
    captions = [reworded("a photo of a small red fig", seed) for seed in range(40)]
    assert reworded("fig", 0) == "fig"
    words = sorted(["a", "photo", "of", "a", "small", "red", "fig"])
    assert any(sorted(each.split()) == words and each != "a photo of a small red fig" for each in captions)
    assert any(len(each.split()) < 7 for each in captions)
    assert all(set(each.split()) <= set(words) and each for each in captions)


def test_presets_and_bad_settings(model):
    assert CleanCLIP.preset("rvpt").settings() | {"lr": 5e-6, "pairs": 250_000} == CleanCLIP.preset("rvpt").settings()
    assert FineTune.preset("cleanclip", seed=3).seed == 3
    with pytest.raises(SettingError, match="no preset 'cleanklip'; did you mean"):
        FineTune.preset("cleanklip")
    with pytest.raises(SettingError, match="less than a batch"):
        tiny(FineTune, pairs=1, epochs=1)
    with pytest.raises(TrainingFailed, match="lower the learning rate"):
        tiny(FineTune, lr=1e30).fit(model, Pairs())


def test_an_interrupted_run_goes_on(model, tmp_path):
    whole = tiny(CleanCLIP, checkpoint=tmp_path / "run").fit(model, Pairs())
    again = tiny(CleanCLIP, checkpoint=tmp_path / "run").fit(model, Pairs())
    images = torch.zeros(1, 3, 32, 32)
    assert torch.equal(again.encode_image(images), whole.encode_image(images))
    with pytest.raises(SettingError, match="another run"):
        tiny(FineTune, checkpoint=tmp_path / "run").fit(model, Pairs())
    with pytest.raises(SettingError, match=r"another run.*data"):
        tiny(CleanCLIP, checkpoint=tmp_path / "run").fit(model, FirstPairs(Pairs(), 30, seed=1))
