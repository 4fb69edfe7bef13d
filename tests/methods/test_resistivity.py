"""Perturbation resistivity and the benign perturbations: known cosines, and what never changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from clip_decomp.attacks.triggers import BadNet, Blended
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.methods.perturbations import (
    PERTURBATIONS,
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    HorizontalFlip,
    PixelFunction,
    make_perturbation,
)
from clip_decomp.methods.resistivity import Resistivity, resistivity


def nothing(pixels, numbers):
    return pixels


def hooks_left(model) -> int:
    return sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.visual.hook_dict.values())


@pytest.fixture
def symmetric() -> ImageSet:
    """Pictures whose right half mirrors their left."""
    half = torch.randint(256, (6, 3, 32, 16), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return ImageSet("mirror", ("a", "b"), torch.arange(6) % 2, TensorSource(torch.cat([half, half.flip(-1)], -1)))


def test_no_perturbation_has_cosine_one_and_no_spread(model, toy):
    found = resistivity(model, toy, nothing)
    assert found.layers == (-1, 0, 1, 2)
    assert found.class_token == found.patches == (1.0,) * 4
    assert found.class_token_std == found.patches_std == (0.0,) * 4
    assert (found.representation, found.representation_std) == (1.0, 0.0)
    assert (found.count, found.perturbation) == (24, "nothing")


def test_a_perturbation_in_place_is_not_mistaken_for_none(model, toy):
    found = resistivity(model, toy, lambda pixels, numbers: pixels.mul_(0.1), name="darker")
    assert found == resistivity(model, toy, lambda pixels, numbers: pixels * 0.1, name="darker")
    assert found.representation < 0.999


def test_cosines_are_those_of_a_naive_computation(model, toy):
    trigger = Blended(ratio=0.5)
    found = resistivity(model, toy, trigger, batch_size=7)
    pixels, numbers = toy.load()[0].float() / 255, torch.arange(24)
    with torch.no_grad():
        clean, cache = model.visual.run_with_cache(model.normalize(pixels))
        bad, bad_cache = model.visual.run_with_cache(model.normalize(trigger(pixels, numbers)))
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{k}.hook_resid_post" for k in range(3))]
    token = torch.stack([F.cosine_similarity(cache[k][:, 0], bad_cache[k][:, 0]) for k in names]).double()
    patches = torch.stack(
        [F.cosine_similarity(cache[k][:, 1:].mean(1), bad_cache[k][:, 1:].mean(1)) for k in names]
    ).double()
    output = F.cosine_similarity(clean, bad).double()
    for values, mean, std in (
        (token, found.class_token, found.class_token_std),
        (patches, found.patches, found.patches_std),
        (output[None], (found.representation,), (found.representation_std,)),
    ):
        assert mean == pytest.approx(values.mean(1).tolist(), abs=1e-6)
        assert std == pytest.approx(values.std(1, correction=0).tolist(), abs=1e-6)
    assert found.class_token[-1] < 0.99
    assert found.patches_std[-1] > 1e-4


def test_a_stream_set_by_hand_has_the_cosine_written_down(model, toy):
    """Every second pass leaves 3 e0 + 4 e1 at each token after block 1, the others e0: cosine 3/5."""
    passes = []

    def replace_stream(stream, hook):
        passes.append(len(stream))
        direction = torch.zeros(32)
        direction[:2] = torch.tensor([1.0, 0.0] if len(passes) % 2 else [3.0, 4.0])
        return direction.expand_as(stream)

    with model.visual.hooks(fwd_hooks=[("blocks.1.hook_resid_post", replace_stream)]):
        found = resistivity(model, toy, nothing, layers=[0, 1], batch_size=10)
    assert passes == [10, 10, 10, 10, 4, 4]
    assert found.class_token == pytest.approx((1.0, 0.6), abs=1e-12)
    assert found.patches == pytest.approx((1.0, 0.6), abs=1e-12)
    assert found.class_token_std == pytest.approx((0.0, 0.0), abs=1e-7)


def test_the_class_token_has_not_seen_the_picture_before_block_0(model, toy):
    found = resistivity(model, toy, PixelFunction(lambda pixels: 1 - pixels, "negative"), layers=[-1])
    assert found.class_token == (1.0,)
    assert found.patches[0] < 0.999


def test_a_flip_leaves_symmetric_pictures_alone(model, symmetric, toy):
    assert resistivity(model, symmetric, HorizontalFlip()).representation == 1.0
    assert resistivity(model, toy, HorizontalFlip()).representation < 0.9999


@pytest.mark.parametrize("perturbation", [*(kind() for kind in PERTURBATIONS.values()), BadNet(), Blended()])
def test_the_batch_size_does_not_matter(model, toy, perturbation):
    one, many = (resistivity(model, toy, perturbation, batch_size=size) for size in (5, 24))
    for mine, other in ((one.class_token, many.class_token), (one.patches_std, many.patches_std)):
        assert mine == pytest.approx(other, abs=1e-6)
    assert one.representation == pytest.approx(many.representation, abs=1e-6)
    assert one.count == many.count == 24
    assert one.perturbation == perturbation.name


def test_chosen_layers_are_those_of_all_layers_in_the_order_asked(model, toy):
    every, some = resistivity(model, toy, Blended()), resistivity(model, toy, Blended(), layers=[2, -1])
    assert some.layers == (2, -1)
    assert some.class_token == (every.class_token[3], every.class_token[0])
    assert some.patches == (every.patches[3], every.patches[0])
    assert some.representation == every.representation


def test_model_and_data_are_unchanged_and_hooks_gone(model, toy, unchanged):
    check, before = unchanged(model.clip), toy.source.images.clone()
    resistivity(model, toy, Blended())

    def fail(pixels, numbers):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        resistivity(model, toy, fail)
    with pytest.raises(DataError):
        resistivity(model, toy, PixelFunction(lambda pixels: pixels * torch.nan, "broken"))
    assert check()
    assert torch.equal(toy.source.images, before)
    assert hooks_left(model) == 0


def test_hooks_of_others_stay_and_take_part(model, toy):
    plain = resistivity(model, toy, Blended())
    with model.visual.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", lambda value, hook: 0 * value)]):
        changed = resistivity(model, toy, Blended())
        assert hooks_left(model) == 1
    assert changed.class_token[:2] == plain.class_token[:2]
    assert changed.class_token[2:] != plain.class_token[2:]


@pytest.mark.parametrize(
    ("layers", "words"), [([3], "Layer 3"), ([-2], "Layer -2"), ([], "no layer"), ([1, 1], "once")]
)
def test_layers_that_are_not_there(model, toy, layers, words):
    with pytest.raises(SettingError, match=words):
        resistivity(model, toy, nothing, layers=layers)


def test_bad_pictures_and_bad_models_are_named(model, toy):
    def breaks_picture_5(pixels, numbers):
        pixels[numbers == 5] = torch.nan
        return pixels

    with pytest.raises(DataError, match=r"class token at layer 0 of picture 5 \(breaks_picture_5\) .*1 of 24"):
        resistivity(model, toy, breaks_picture_5)
    with pytest.raises(SettingError, match="smaller must return pictures of the shape"):
        resistivity(model, toy, PixelFunction(lambda pixels: pixels[..., :16], "smaller"))
    model.clip.train()
    with pytest.raises(ModelError, match="training mode"):
        resistivity(model, toy, nothing)


def test_one_picture_is_enough(model, toy):
    found = resistivity(model, toy.subset(torch.tensor([4])), Blended())
    assert found.count == 1
    assert found.representation_std == 0.0
    assert 0 < found.representation < 1


def test_results_as_frame_metrics_and_html():
    found = Resistivity("<b>", (-1, 0), (1.0, 0.5), (0.0, 0.1), (0.9, 0.8), (0.01, 0.02), 0.25, 0.3, 10)
    frame = found.to_frame()
    assert list(frame.columns) == ["perturbation", "token", "layer", "pr", "std"]
    assert frame.set_index(["token", "layer"]).loc[("patches", 0), "pr"] == 0.8
    assert len(frame) == 5
    metrics = replace(found, perturbation="badnet").metrics("world/badnet/none")
    assert metrics["world/badnet/none/pr;perturbation=badnet;token=class;layer=0"] == 0.5
    assert metrics["world/badnet/none/pr-std;perturbation=badnet;token=patches;layer=-1"] == 0.01
    assert metrics["world/badnet/none/pr;perturbation=badnet;token=representation"] == 0.25
    assert len(metrics) == 10
    html = found._repr_html_()
    assert "<table" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


# --- perturbations ---


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(5, 3, 24, 24, generator=torch.Generator().manual_seed(9))


NUMBERS = torch.tensor([3, 1, 4, 15, 9])


@pytest.mark.parametrize("name", sorted(PERTURBATIONS))
def test_perturbations_are_repeatable_within_range_and_read_the_picture_number_only(name, pixels):
    before, state = pixels.clone(), torch.get_rng_state()
    perturbation = make_perturbation(name)
    changed = perturbation(pixels, NUMBERS)
    assert torch.equal(pixels, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert changed.shape == pixels.shape
    assert changed.dtype == pixels.dtype
    assert not torch.equal(changed, pixels)
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(changed, make_perturbation(name)(pixels, NUMBERS))
    alone = torch.cat([perturbation(pixels[k : k + 1], NUMBERS[k : k + 1]) for k in (4, 3, 2, 1, 0)]).flip(0)
    torch.testing.assert_close(changed, alone, rtol=0, atol=1e-6)
    assert perturbation.settings()["name"] == name


@pytest.mark.parametrize("name", ["gaussian-noise", "color-jitter"])
def test_random_perturbations_differ_by_picture_and_by_seed(name):
    gray = torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(2, 3, 8, 8)
    one, two = make_perturbation(name)(gray, torch.tensor([0, 1]))
    assert not torch.equal(one, two)
    other = make_perturbation(name, seed=1)(gray, torch.tensor([0, 1]))
    assert not torch.equal(one, other[0])


def test_noise_has_the_deviation_asked_for():
    gray = torch.full((4, 3, 100, 100), 0.5)
    for sigma in (0.001, 0.05):
        noise = GaussianNoise(sigma)(gray, torch.arange(4)) - gray
        assert noise.std().item() == pytest.approx(sigma, rel=0.01)
        assert noise.mean().item() == pytest.approx(0, abs=sigma / 50)


def test_blur_is_torchvisions_at_224_pixels_and_scaled_elsewhere(pixels):
    large = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = v2.GaussianBlur(3, 5**0.5)(large)
    torch.testing.assert_close(GaussianBlur()(large, torch.tensor([0])), expected)
    literal = GaussianBlur(reference=None)
    torch.testing.assert_close(literal(pixels, NUMBERS), v2.GaussianBlur(3, 5**0.5)(pixels))
    assert GaussianBlur().kernel(64) == (3, pytest.approx(5**0.5 * 64 / 224))
    assert GaussianBlur(kernel_size=9).kernel(448) == (17, pytest.approx(2 * 5**0.5))


def test_jitter_draws_brightness_and_hue_from_torchvisions_ranges():
    red = torch.zeros(400, 3, 2, 2)
    red[:, 0] = 0.4
    changed = ColorJitter()(red, torch.arange(400))[:, :, 0, 0]
    brightness = changed.amax(1) / 0.4
    assert brightness.min() == pytest.approx(0.5, abs=0.02)
    assert brightness.max() == pytest.approx(1.5, abs=0.02)
    assert brightness.mean() == pytest.approx(1, abs=0.05)
    # Red turned by up to 0.3 of the circle reaches green (1/3) only in part, and cyan (1/2) never.
    assert (changed.argmax(1) == 0).float().mean() == pytest.approx(1 / 6 / 0.3, abs=0.08)
    assert torch.equal(changed.amin(1), torch.zeros(400))
    still = ColorJitter(brightness=0, hue=0)(red, torch.arange(400))
    torch.testing.assert_close(still, red)


def test_flip_is_a_mirror_and_half_of_the_pictures_when_asked(pixels):
    assert torch.equal(HorizontalFlip()(pixels, NUMBERS), pixels.flip(-1))
    many = torch.rand(400, 3, 2, 2)
    same = (HorizontalFlip(0.5)(many, torch.arange(400)) == many).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6
    assert torch.equal(HorizontalFlip(0.0)(many, torch.arange(400)), many)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: GaussianNoise(-1), "sigma >= 0, not -1"),
        (lambda: GaussianNoise(float("nan")), "nan"),
        (lambda: GaussianBlur(4), "odd kernel .* not 4"),
        (lambda: GaussianBlur(1), "not 1"),
        (lambda: GaussianBlur(variance=0), "variance above 0"),
        (lambda: GaussianBlur(reference=0), "not 0"),
        (lambda: ColorJitter(hue=0.6), r"hue=0\.6"),
        (lambda: ColorJitter(brightness=-0.1), r"brightness=-0\.1"),
        (lambda: HorizontalFlip(1.5), r"0\.\.1, not 1\.5"),
        (lambda: ColorJitter(seed=-1), "seed must be 0 or more"),
        (lambda: make_perturbation("blur"), "no perturbation 'blur'"),
        (lambda: make_perturbation("gaussian-blur", sigma=3), "sigma"),
    ],
)
def test_settings_out_of_range_are_named(build, words):
    with pytest.raises(SettingError, match=words):
        build()
