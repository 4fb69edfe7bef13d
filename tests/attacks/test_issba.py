"""ISSBA: the message code, the trigger on any pictures, its training and storage, and what it reaches on the world."""

import json
import types
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from clip_decomp.attacks.triggers.issba import ISSBA, MessageCode, measure_recovery
from clip_decomp.attacks.triggers.issba.training import Plan
from clip_decomp.data.pairs import PairBatch, step_generator
from clip_decomp.data.world.sets import world_split
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, ModelError, SettingError, TrainingFailed

TINY = ISSBA(message="Hi", bits=32, parity=2, size=16, width=4, steps=3, batch_size=4, pictures=20)
FIRST = torch.tensor([0])


class Noise:
    """A stream of gray noise that remembers which batches were asked for."""

    def __init__(self, size: int = 16, spread: float = 100) -> None:
        self.size, self.spread, self.asked = size, spread, []

    def batch(self, step, size, part=slice(None)):
        self.asked.append(step)
        images = gray(size, self.size, step, self.spread)
        facts = torch.zeros(size, 1, dtype=torch.long)
        return PairBatch(["noise"] * size, facts, facts, torch.arange(size), images)


def gray(count: int, size: int, seed: int = 0, spread: float = 100) -> torch.Tensor:
    noise = torch.rand(count, 1, size, size, generator=step_generator(seed, 0)).expand(-1, 3, -1, -1)
    return (80 + spread * noise).to(torch.uint8)


def fit(trigger: ISSBA, stream=None) -> ISSBA:
    return trigger.fit(types.SimpleNamespace(device=torch.device("cpu")), stream or Noise(), ("a", "b"), "a")


@pytest.fixture(scope="module")
def fitted():
    return fit(TINY)


def test_the_code_is_systematic_and_corrects_any_two_bytes():
    code = MessageCode()
    bits = code.encode("Stega!!")
    assert bits.shape == (96,)
    assert int("".join(str(int(bit)) for bit in bits[:8]), 2) == ord("S")
    for one in range(12):
        for other in range(one):
            damaged = bits.clone()
            for byte in (one, other):
                damaged[8 * byte : 8 * byte + 8] = 1 - damaged[8 * byte : 8 * byte + 8]
            assert code.decode(damaged[None] > 0.5) == ["Stega!!"]
    for byte in (0, 4, 9):
        bits[8 * byte] = 1 - bits[8 * byte]
    assert code.decode(bits[None] > 0.5) == [None]


def test_short_messages_are_padded_and_noise_is_no_message():
    code = MessageCode()
    assert code.decode(code.encode("a b")[None] > 0.5) == ["a b"]
    noise = torch.rand(500, 96, generator=torch.Generator().manual_seed(0)) > 0.5
    # All zeros are a word of the code, but an empty one; so is a word of bytes that are no text.
    assert set(code.decode(torch.cat([noise, torch.zeros(1, 96, dtype=torch.bool)]))) == {None}
    assert code.decode(torch.zeros(0, 96, dtype=torch.bool)) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"message": "Stega!!!"}, "8 characters, but 96 bits hold 7 .* use 104 bits"),
        ({"message": "Stéga"}, "printable ASCII"),
        ({"message": ""}, "printable ASCII"),
        ({"message": "a\n"}, "printable ASCII"),
        ({"bits": 97}, "not 97"),
        ({"bits": 8 * 256}, "not 2048"),
        ({"parity": 1}, "parity cannot be 1"),
        ({"parity": 12}, "parity cannot be 12"),
        ({"strength": 0.0}, "strength=0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"alike": 1.5}, "alike=1.5"),
        ({"lr": -1.0}, "lr=-1"),
        ({"size": 60}, "60 and 32"),
        ({"width": 6}, "64 and 6"),
        ({"batch_size": 5}, "batch_size=5"),
        ({"steps": 0}, "steps=0"),
        ({"pictures": 0}, "pictures=0"),
    ],
)
def test_settings_out_of_range(settings, says):
    with pytest.raises(SettingError, match=says):
        ISSBA(**settings)


def test_unfitted_it_says_so():
    images = torch.rand(2, 3, 16, 16)
    assert not TINY.fitted
    assert TINY.tensors() == {}
    for call in (lambda: TINY(images, FIRST), lambda: TINY.decode(images), lambda: TINY(images[:0], FIRST[:0])):
        with pytest.raises(SettingError, match="not trained"):
            call()
    assert TINY.restore({}) == TINY


@pytest.mark.parametrize("shape", [(0, 16, 16), (1, 16, 16), (3, 37, 90), (2, 5, 3), (1, 1, 1), (2, 224, 224)])
def test_any_pictures(fitted, shape):
    count, *size = shape
    images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    before = images.clone()
    found = fitted(images, torch.arange(count))
    assert torch.equal(images, before)
    assert found.shape == images.shape
    assert found is not images
    assert len(fitted.decode(found)) == count
    if count and min(size) > 1:
        # The strength is that of the documentation at every size: nothing is clipped in these pictures.
        change = (found - images).square().mean((1, 2, 3)).sqrt() * 255
        torch.testing.assert_close(change, torch.full_like(change, fitted.strength), rtol=1e-3, atol=1e-3)


def test_pictures_stay_in_range_and_keep_their_type(fitted):
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2)).round()
    found = replace(fitted, strength=100.0)(images, torch.arange(4))
    assert found.min() >= 0
    assert found.max() <= 1
    assert fitted(images.double(), torch.arange(4)).dtype == torch.float64


def test_a_picture_does_not_depend_on_its_batch_or_its_number(fitted):
    images = torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    together = fitted(images, torch.arange(5))
    assert torch.equal(together, fitted(images, torch.arange(5) + 7))
    for row in range(5):
        torch.testing.assert_close(fitted(images[row : row + 1], FIRST)[0], together[row], rtol=0, atol=1e-5)
    changes = (together - images).flatten(1)
    assert not torch.allclose(changes[0], changes[1], atol=1e-3)


def test_the_residual_depends_on_the_message(fitted):
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    other = replace(fitted, message="Ho")
    assert not torch.allclose(fitted(images, FIRST), other(images, FIRST), atol=1e-4)


def test_training_is_seeded_and_leaves_the_global_generator_alone(fitted):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    stream = Noise()
    again = fit(TINY, stream)
    assert torch.equal(torch.rand(3), expected)
    assert again.tensors().keys() == fitted.tensors().keys()
    assert all(torch.equal(value, again.tensors()[key]) for key, value in fitted.tensors().items())
    assert min(stream.asked) >= 500_000
    other = fit(replace(TINY, seed=1))
    assert not torch.equal(other.tensors()["decoder.last.weight"], fitted.tensors()["decoder.last.weight"])
    # Fitting what was fitted starts anew.
    twice = fit(fitted)
    assert all(torch.equal(value, twice.tensors()[key]) for key, value in fitted.tensors().items())


def test_stored_and_restored_it_is_the_same(fitted):
    settings = json.loads(json.dumps(fitted.settings()))
    assert settings.pop("name") == "issba"
    stored = load(save(fitted.tensors()))
    assert all(value.dtype == torch.float16 for value in stored.values())
    restored = ISSBA(**settings).restore(stored)
    assert restored == fitted
    assert hash(restored) == hash(fitted)
    assert restored != replace(fitted, strength=9.0)
    images = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(5))
    assert torch.equal(restored(images, torch.arange(3)), fitted(images, torch.arange(3)))
    assert torch.equal(restored.read(images), fitted.read(images))


def test_tensors_that_do_not_fit(fitted):
    whole = fitted.tensors()
    with pytest.raises(ModelError, match=r"decoder\.last\.bias"):
        TINY.restore({key: value for key, value in whole.items() if key != "decoder.last.bias"})
    with pytest.raises(ModelError, match="settings need"):
        replace(TINY, width=8).restore(whole)
    with pytest.raises(ModelError, match="NaN"):
        TINY.restore({**whole, "encoder.last.bias": whole["encoder.last.bias"] * float("nan")})
    # A failed attempt leaves the trigger as it was.
    assert not TINY.fitted


def test_a_loss_that_is_not_finite_ends_training():
    with pytest.raises(TrainingFailed, match="step 1: lower lr"):
        fit(replace(TINY, lr=1e30))


def test_pictures_of_another_size_train_it_as_well():
    assert fit(replace(TINY, steps=1), Noise(size=40)).fitted


def test_the_plan_starts_strong_and_alike():
    plan = Plan(strength=10, alike=0.4, steps=1000, batch_size=4, lr=1e-3, seed=0)
    assert plan.goals(0) == pytest.approx((30 / 255, 1.0))
    assert plan.goals(250) == pytest.approx((20 / 255, 0.7))
    assert plan.goals(500) == plan.goals(999) == pytest.approx((10 / 255, 0.4))
    assert plan.rate(0) == pytest.approx(2e-5)
    assert plan.rate(300) == pytest.approx(1e-3)
    assert plan.rate(999) == pytest.approx(1e-3 / 400)


LEARNING = replace(TINY, width=16, pictures=128, strength=20.0, alike=0.9, lr=5e-3, batch_size=16)


def test_it_learns_to_read_the_message_and_not_a_pattern():
    trigger = fit(replace(LEARNING, message="H", bits=24, steps=120), Noise(spread=12))
    images = gray(100, 16, seed=9, spread=12).float() / 255
    for message in ("H", "7"):
        read = trigger.read(replace(trigger, message=message)(images, torch.arange(100)))
        wrong = (read != (trigger.code.encode(message) > 0.5)).float().mean()
        assert wrong < 0.3, message  # guessing: 0.5 with a standard deviation of 0.01


@pytest.mark.slow
def test_it_learns_to_the_end_on_noise():
    trigger = fit(replace(LEARNING, size=32, steps=600, alike=0.7), Noise(32))
    found = measure_recovery(trigger, gray(100, 32, seed=9))
    assert found.share >= 0.95
    assert found.clean == 0
    assert found.bit_errors < 0.01
    assert found.psnr == pytest.approx(22.1, abs=0.3)
    assert found.residual == pytest.approx(20, abs=0.5)
    assert found.alike == pytest.approx(0.7, abs=0.1)
    images = gray(100, 32, seed=9).float() / 255
    texts = trigger.decode(replace(trigger, message="Ho")(images, torch.arange(100)))
    assert texts.count("Ho") >= 95
    assert texts.count("Hi") == 0


def test_recovery_is_measured_through_rounding(fitted):
    images = gray(30, 16)
    found = measure_recovery(fitted, images, batch_size=7)
    clean = images.float() / 255
    rounded = (fitted(clean, torch.arange(30)) * 255).round() / 255
    assert found.pictures == 30
    assert found.psnr == pytest.approx(-10 * (rounded - clean).square().mean((1, 2, 3)).log10().mean().item(), abs=1e-3)
    assert found.residual == pytest.approx(255 * (rounded - clean).square().mean().sqrt().item(), rel=1e-4)
    flat = torch.nn.functional.normalize((rounded - clean).flatten(1), dim=1)
    cosines = (flat @ flat.T)[~torch.eye(30, dtype=torch.bool)]
    assert found.alike == pytest.approx(cosines.mean().item(), abs=1e-4)
    expected = fitted.code.encode("Hi") > 0.5
    assert found.bit_errors == pytest.approx((fitted.read(rounded) != expected).float().mean().item(), abs=1e-3)


def test_recovery_needs_pictures(fitted):
    with pytest.raises(DataError, match="not on 0 of type"):
        measure_recovery(fitted, torch.zeros(0, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(DataError, match="float32"):
        measure_recovery(fitted, torch.rand(1, 3, 16, 16))
    assert measure_recovery(fitted, gray(1, 16)).alike == 1.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_the_world_the_string_is_read_and_not_seen():
    trigger = fit(ISSBA(), WorldPairs(seed=11))
    found = measure_recovery(trigger, world_split("world", "held_out", 1000).source.images)
    assert found.share >= 0.95
    assert found.clean == 0
    assert found.psnr >= 30
    assert found.alike == pytest.approx(0.5, abs=0.1)
    assert len(save(trigger.tensors())) < 1_000_000
