"""The linear probe: it separates what can be separated, and is measured by the one evaluator."""

import pytest
import torch

from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.evaluation import evaluate, scorer
from clip_decomp.model import HookedCLIP
from defenses import LinearProbe

NAMES = ("apple", "pear", "plum", "fig")
LABELS = torch.arange(32) % 4


@pytest.fixture
def data():
    """Each class has a brightness and a color of its own, and a little noise."""
    generator = torch.Generator().manual_seed(0)
    colors = torch.tensor([[200, 20, 20], [20, 200, 20], [20, 20, 200], [220, 220, 220]])
    noise = torch.randint(-20, 20, (32, 3, 32, 32), generator=generator)
    images = (colors[LABELS][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return ImageSet("toy", NAMES, LABELS, TensorSource(images), target="fig")


class Whiten:
    """A trigger that makes every picture look like the last class."""

    word = ""

    def __call__(self, images, numbers):
        return torch.full_like(images, 220 / 255)


@pytest.mark.parametrize("settings", [{"epochs": 300, "lr": 0.1}, {"solver": "logistic", "inverse_penalty": 100.0}])
def test_what_can_be_told_apart_is_and_a_trigger_still_works(model, data, settings):
    probe = LinearProbe(shots=4, **settings).fit(model, data)
    found = evaluate(probe, data, Whiten(), "fig")
    assert found.clean_accuracy.value > 0.95
    assert found.attack_success_rate.value == 1
    assert [each.name for each in found.per_class] == list(NAMES)
    assert len(probe.chosen_) == 16


def test_two_classes_have_two_rows(model, data):
    two = ImageSet("two", NAMES[:2], LABELS[LABELS < 2], TensorSource(data.source.images[LABELS < 2]))
    probe = LinearProbe("logistic", shots=4).fit(model, two)
    logits = probe.classify(probe.normalize(two.source.images.float() / 255))
    assert logits.shape == (16, 2)
    assert (logits.argmax(1) == two.labels).float().mean() > 0.9


def test_logits_are_the_layer_on_unit_features(model, data):
    probe = LinearProbe(shots=1, epochs=1).fit(model, data)
    images = torch.randn(2, 3, 32, 32)
    expected = model.encode_image(images, normalize=True) @ probe.weight_.T + probe.bias_
    torch.testing.assert_close(probe.classify(images), expected)


def test_the_seed_decides(model, data):
    one, same, other = (LinearProbe(shots=2, epochs=2, seed=seed).fit(model, data) for seed in (0, 0, 1))
    assert torch.equal(one.weight_, same.weight_)
    assert not torch.equal(one.weight_, other.weight_)


def test_bad_settings_and_data_are_named(model, data):
    with pytest.raises(SettingError, match="sgd or logistic"):
        LinearProbe("adam")
    with pytest.raises(SettingError, match="epochs and batch_size"):
        LinearProbe(epochs=0)
    with pytest.raises(DataError, match="and 9 are asked for"):
        LinearProbe(shots=9).fit(model, data)
    other = ImageSet("other", ("key", *NAMES[1:]), LABELS, data.source)
    with pytest.raises(DataError, match="fitted to other classes"):
        evaluate(LinearProbe(shots=1, epochs=1).fit(model, data), other)


def test_a_probe_of_more_classes_chooses_among_those_that_are_asked_for(model, data):
    probe = LinearProbe(shots=2, epochs=2).fit(model, data)
    kept = [place for place, name in enumerate(NAMES) if name != NAMES[0]][::-1]  # in another order, too
    names = tuple(NAMES[place] for place in kept)
    scores = scorer(probe, names, data.templates)(torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0)))
    whole = scorer(probe, NAMES, data.templates)(torch.rand(2, 3, 32, 32, generator=torch.manual_seed(0)))
    assert torch.equal(scores, whole[:, kept])


def test_a_probe_is_kept_and_refuses_another_tower(model, data, make_clip, tmp_path):
    probe = LinearProbe(shots=2, epochs=2, seed=3).fit(model, data)
    probe.save(tmp_path)
    loaded = LinearProbe.load(tmp_path, model)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.classify(pixels), probe.classify(pixels))
    assert (loaded.class_names_, loaded.settings()) == (probe.class_names_, probe.settings())
    other = HookedCLIP(make_clip(width=40), model.tokenizer, model.mean, model.std, "other")
    with pytest.raises(ModelError, match="another image tower"):
        LinearProbe.load(tmp_path, other)
    with pytest.raises(ModelError, match="holds no linear probe"):
        LinearProbe.load(tmp_path / "none", model)
    (tmp_path / "probe.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="holds no linear probe"):
        LinearProbe.load(tmp_path, model)
