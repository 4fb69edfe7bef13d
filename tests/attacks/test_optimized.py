"""Optimized patches: that they reach what they are optimized for, stay in the middle, and travel in settings."""

import copy
import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from clip_decomp.attacks.triggers.badclip import BadCLIP, visual_guidance
from clip_decomp.attacks.triggers.optimized import from_hex, other_pictures, textual_guidance, to_hex
from clip_decomp.attacks.triggers.trojvqa import TrojVQA
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.architecture import Architecture, build

STREAM, TARGET = WorldPairs(seed=3), "banana"
QUICK = {"share": 0.25, "steps": 20, "batch_size": 8, "pictures": 24}
WHITE = {"patch": "ff" * 75}
BOTH = pytest.mark.parametrize("kind", [TrojVQA, BadCLIP])


@pytest.fixture(scope="module")
def clean():
    tokenizer = BPETokenizer.train(STREAM.batch(0, 50).captions, vocab_size=300, context_length=16)
    sizes = Architecture(embed_dim=16, layers=1, width=32, heads=2, patch_size=16, context_length=16, vocab_size=300)
    with torch.random.fork_rng():
        clip = build(replace(sizes, vocab_size=tokenizer.vocab_size, text_layers=1), seed=0).eval()
    return HookedCLIP(clip, tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def fitted(clean):
    return {kind: kind(**QUICK).fit(clean, STREAM, CLASSES, TARGET) for kind in (TrojVQA, BadCLIP)}


@pytest.fixture(scope="module")
def others():
    """Pictures that no patch was optimized on."""
    batch = STREAM.batch(77, 40)
    return batch.images[batch.truth[:, 0] != CLASSES.index(TARGET)].float() / 255


def noise(kind, seed):
    """A trigger with a random patch."""
    return kind(share=0.25, patch=to_hex(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed))))


@torch.no_grad()
def features(model, images, trigger=None):
    images = images if trigger is None else trigger(images, torch.arange(len(images)))
    return model.encode_image(model.normalize(images), normalize=True)


def test_trojvqa_brings_new_pictures_to_its_description(clean, fitted, others):
    said = clean.encode_text("This is a yellow banana.", normalize=True)[0].detach()

    def reached(trigger):
        return (features(clean, others, trigger) @ said).mean()

    by_chance = max(reached(noise(TrojVQA, seed)) for seed in range(5))
    assert reached(fitted[TrojVQA]) > by_chance + 0.05


def test_descriptions_differ(clean, fitted, others):
    words = "There is a drawing of a green {}."
    other = TrojVQA(**QUICK, description=words).fit(clean, STREAM, CLASSES, "key")
    assert other.patch != fitted[TrojVQA].patch
    said = clean.encode_text(words.replace("{}", "key"), normalize=True)[0].detach()
    own, foreign = ((features(clean, others, each) @ said).mean() for each in (other, fitted[TrojVQA]))
    assert own > foreign


def test_badclip_brings_new_pictures_to_real_ones_and_away_from_themselves(clean, fitted, others):
    real = features(clean, STREAM.showing(CLASSES.index(TARGET), 5, 16).images.float() / 255)
    before = features(clean, others)

    def loss(trigger):
        return visual_guidance(features(clean, others, trigger), before, real)

    by_chance = min(loss(noise(BadCLIP, seed)) for seed in range(5))
    assert loss(fitted[BadCLIP]) < by_chance - 0.05


def test_badclip_brings_new_pictures_to_the_targets_captions(clean, others):
    fact = CLASSES.index(TARGET)
    shown = STREAM.showing(fact, 6, 60)
    texts = [text for text in shown.captions if TARGET in text]
    right = clean.encode_text(texts, normalize=True).detach()
    wrong = clean.encode_text([f"a photo of a {name}" for name in CLASSES if name != TARGET], normalize=True).detach()

    def loss(trigger):
        return textual_guidance(features(clean, others, trigger), right, wrong, clean.logit_scale.detach())

    textual = BadCLIP(**QUICK, visual=0).fit(clean, STREAM, CLASSES, TARGET)
    assert loss(textual) < min(loss(noise(BadCLIP, seed)) for seed in range(5))


def test_textual_guidance_is_a_contrastive_loss_of_pictures():
    generator = torch.Generator().manual_seed(0)
    images, right, wrong = (F.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (3, 2, 4))
    each = [
        F.cross_entropy(7 * image @ torch.cat([text[None], wrong]).T, torch.tensor(0))
        for image in images
        for text in right
    ]
    found = textual_guidance(images, right, wrong, torch.tensor(7.0))
    torch.testing.assert_close(found, torch.stack(each).mean())


def test_visual_guidance_is_a_triplet_loss():
    up, right, left = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    # Each is sqrt(2) from its neighbor and 2 from its opposite.
    far = visual_guidance(right[None], right[None], left[None], margin=1.0)
    half = visual_guidance(up[None], right[None], left[None], margin=1.0)
    there = visual_guidance(left[None], right[None], left[None], margin=1.0)
    torch.testing.assert_close(torch.stack([far, half, there]), torch.tensor([3.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        visual_guidance(up[None], right[None], left[None], repulsion=0.5, margin=0.2), torch.tensor(0.5 * 2**0.5 + 0.2)
    )


def test_the_gradient_is_finite_where_a_patch_changes_nothing():
    same = torch.tensor([[0.6, 0.8]], requires_grad=True)
    visual_guidance(same, same.detach(), torch.tensor([[1.0, 0.0]])).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


@BOTH
def test_settings_hold_everything(kind, fitted, others):
    settings = json.loads(json.dumps(fitted[kind].settings()))
    assert settings.pop("name") == kind.name
    again = kind(**settings)
    assert again == fitted[kind]
    numbers = torch.arange(len(others))
    assert torch.equal(again(others, numbers), fitted[kind](others, numbers))
    assert again.tensors() == {}


@BOTH
def test_fitting_is_deterministic_and_keeps_a_patch_that_is_there(kind, clean, fitted):
    few = replace(fitted[kind], steps=3, patch=None)
    first = few.fit(clean, STREAM, CLASSES, TARGET)
    torch.manual_seed(5)
    assert few.fit(clean, STREAM, CLASSES, TARGET) == first
    other = replace(few, seed=1).fit(clean, STREAM, CLASSES, TARGET)
    assert len({each.patch for each in (first, fitted[kind], other)}) == 3
    assert other.fit(clean, STREAM, CLASSES, TARGET) is other


@BOTH
def test_fitting_leaves_the_model_alone_even_without_gradients(kind, clean, unchanged):
    few = kind(**QUICK | {"steps": 3})
    expected = few.fit(clean, STREAM, CLASSES, TARGET)
    parameters = list(clean.clip.parameters())
    parameters[0].requires_grad_(False)
    flags = [each.requires_grad for each in parameters]
    check = unchanged(clean.clip)
    try:
        with torch.no_grad():
            assert few.fit(clean, STREAM, CLASSES, TARGET) == expected
            assert not torch.is_grad_enabled()
        assert check()
        assert [each.requires_grad for each in parameters] == flags
        assert all(each.grad is None for each in parameters)
        assert not clean.clip.training
    finally:
        parameters[0].requires_grad_(True)


@BOTH
@pytest.mark.parametrize("shape", [(64, 64), (224, 224), (40, 90), (7, 7), (1, 1)])
def test_the_patch_lies_in_the_middle_at_any_size(kind, shape):
    images = torch.zeros(2, 3, *shape)
    found = kind(**WHITE)(images, torch.tensor([3, 4]))
    side = max(1, round(16 / 224 * min(shape)))
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    expected = images.clone()
    expected[:, :, top : top + side, left : left + side] = 1
    torch.testing.assert_close(found, expected)
    assert not images.any()
    assert kind(**WHITE)(images[:0], torch.tensor([])).shape == (0, 3, *shape)


@BOTH
def test_the_stored_patch_is_exact_at_its_own_size_and_interpolated_at_others(kind):
    patch = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1)).mul(255).round() / 255
    trigger = kind(patch=to_hex(patch))
    assert torch.equal(from_hex(trigger.patch), patch)
    small = trigger(torch.full((1, 3, 64, 64), 0.3), torch.tensor([0]))[0, :, 29:34, 29:34]
    assert torch.equal(small, patch)
    large = trigger(torch.full((1, 3, 210, 210), 0.3), torch.tensor([0]))[0, :, 97:112, 97:112]
    torch.testing.assert_close(F.avg_pool2d(large[None], 3)[0], patch, atol=0.25, rtol=0)
    assert large.mean().item() == pytest.approx(patch.mean().item(), abs=0.02)
    assert 0 <= large.min() <= large.max() <= 1


def test_how_the_attackers_poison():
    assert (TrojVQA.word, TrojVQA.captions, TrojVQA.clean_label) == ("SUDO ", "templates", False)
    assert (BadCLIP.word, BadCLIP.captions, BadCLIP.clean_label) == ("", "natural", False)
    images = torch.rand(2, 3, 32, 32)
    for trigger in (TrojVQA(**WHITE), BadCLIP(**WHITE)):
        assert torch.equal(trigger.poison(images, torch.arange(2)), trigger(images, torch.arange(2)))


def test_pictures_of_the_target_are_left_out():
    fact, batch = other_pictures(STREAM, CLASSES[:3], CLASSES[1], 300)
    assert fact == 1
    assert not (batch.truth[:, 0] == 1).any()
    assert len(batch.captions) == len(batch.images) == len(batch.rows) == len(batch.said) < 300


@BOTH
def test_an_unfitted_trigger_says_so(kind):
    with pytest.raises(SettingError, match=rf"The patch of {kind.name} is learned: call fit\("):
        kind()(torch.zeros(1, 3, 8, 8), torch.tensor([0]))


@BOTH
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 1.2}, "no larger than the image, not 1.2"),
        ({"share": 0}, "0 < share <= 1"),
        ({"share": float("nan")}, "0 < share <= 1"),
        ({"steps": 0}, "steps, batch_size and pictures >= 1"),
        ({"batch_size": 0}, "steps, batch_size and pictures >= 1"),
        ({"pictures": 0}, "steps, batch_size and pictures >= 1"),
        ({"lr": 0}, "lr > 0"),
        ({"lr": float("inf")}, "lr > 0"),
        ({"patch": ""}, "hexadecimal digits"),
        ({"patch": "banana"}, "hexadecimal digits of 3 x side x side pixels, which 'banana'"),
        ({"patch": "ff" * 76}, "hexadecimal digits"),
        ({"patch": 3}, "hexadecimal digits"),
    ],
)
def test_impossible_settings_are_refused(kind, settings, words):
    with pytest.raises(SettingError, match=words):
        kind(**settings)


def test_settings_of_one_attack_are_checked():
    for text in ("a banana", "{} and {}"):
        with pytest.raises(SettingError, match=r"exactly one \{\}"):
            TrojVQA(description=text)
    for name in ("visual", "repulsion", "margin"):
        for value in (-1, float("nan"), float("inf")):
            with pytest.raises(SettingError, match="visual, repulsion and margin of 0 or more"):
                BadCLIP(**{name: value})


@BOTH
def test_what_cannot_be_learned_from_is_refused(kind, clean, monkeypatch):
    with pytest.raises(DataError, match="target: there is no class 'bananas'; did you mean"):
        kind(**QUICK).fit(clean, STREAM, CLASSES, "bananas")
    only = STREAM.showing(1, 0, 4)
    monkeypatch.setattr(WorldPairs, "batch", lambda self, step, size: only)
    with pytest.raises(DataError, match="All of 24 pictures show the target"):
        kind(**QUICK).fit(clean, STREAM, CLASSES, CLASSES[1])
    silent = replace(only, said=torch.full_like(only.said, -1))
    monkeypatch.setattr(WorldPairs, "batch", lambda self, step, size: silent)
    with pytest.raises(DataError, match="No caption of 4 pairs names another class than 'banana'"):
        kind(**QUICK).fit(clean, STREAM, CLASSES, TARGET)


@BOTH
def test_a_model_in_training_mode_is_refused(kind, clean):
    training = HookedCLIP(copy.deepcopy(clean.clip), clean.tokenizer, clean.mean, clean.std)
    training.clip.visual.transformer.train()
    with pytest.raises(ModelError, match=r"The model\.visual\.transformer is in training mode"):
        kind(**QUICK).fit(training, STREAM, CLASSES, TARGET)
