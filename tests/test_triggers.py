import itertools

import pytest
import torch

from clip_decomp.attacks import triggers
from clip_decomp.attacks.triggers import (
    SIG,
    TRIGGERS,
    BadNet,
    Blended,
    Kitty,
    Reflection,
    WaNet,
    make_trigger,
    register,
)
from clip_decomp.errors import SettingError

MANY = (
    BadNet(),
    BadNet(seed=3, grid=4, share=0.3),
    BadNet(place="center"),
    BadNet(place="top right", share=1.0),
    Blended(),
    Blended(ratio=1.0),
    Blended(ratio=0.05, seed=9),
    SIG(),
    SIG(strength=0.1, frequency=2),
    WaNet(),
    WaNet(k=4, strength=3, seed=2),
    Kitty(),
    Kitty(place="center", share=0.5),
    Reflection(),
    Reflection(seed=1, ghost=1.0, shift=0.0),
)


def pictures(count=6, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def numbers(count=6, start=0):
    return torch.arange(start, start + count)


def patch_of(trigger, image, triggered):
    """Top, left and side of what a patch trigger changed."""
    changed = (image != triggered).any(0)
    down, across = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
    return down[0].item(), across[0].item(), down[-1].item() - down[0].item() + 1


@pytest.mark.parametrize("trigger", MANY, ids=str)
def test_triggers_are_deterministic_and_leave_their_input_alone(trigger):
    images = pictures()
    before = images.clone()
    torch.manual_seed(1)
    first = trigger(images, numbers())
    torch.manual_seed(2)
    assert torch.equal(first, trigger(images, numbers()))
    assert torch.equal(images, before)
    assert first.data_ptr() != images.data_ptr()
    assert not torch.equal(first, images)
    assert torch.equal(first, make_trigger(**trigger.settings())(images, numbers()))


@pytest.mark.parametrize("trigger", MANY, ids=str)
@pytest.mark.parametrize("size", [7, 32, 64, 224])
def test_values_stay_in_range_at_any_size(trigger, size):
    for images in (pictures(3, size), torch.zeros(3, 3, size, size), torch.ones(3, 3, size, size)):
        found = trigger(images, numbers(3))
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.min() >= 0
        assert found.max() <= 1


@pytest.mark.parametrize("trigger", MANY, ids=str)
def test_a_picture_is_triggered_alike_alone_and_in_a_batch(trigger):
    images = pictures()
    whole = trigger(images, numbers())
    for k in range(6):
        assert torch.equal(trigger(images[k : k + 1], torch.tensor([k]))[0], whole[k])
    assert trigger(images[:0], numbers(0)).shape == (0, 3, 64, 64)


@pytest.mark.parametrize(("size", "side"), [(64, 5), (224, 16), (32, 2), (7, 1), (1, 1)])
def test_the_patch_keeps_its_share_of_the_picture(size, side):
    images = torch.full((4, 3, size, size), 0.5)
    found = BadNet()(images, numbers(4))
    assert ((found != 0.5).flatten(1).sum(1) == 3 * side * side).all()
    for image, triggered in zip(images, found, strict=True):
        assert patch_of(BadNet(), image, triggered)[2] == side


def test_the_pattern_is_binary_noise_and_the_same_everywhere():
    trigger = BadNet(seed=4)
    pattern = trigger.patch(16)
    assert set(pattern.unique().tolist()) == {0.0, 1.0}
    assert 0.4 < pattern.mean() < 0.6
    assert not torch.equal(pattern, BadNet(seed=5).patch(16))
    images = torch.full((20, 3, 224, 224), 0.5)
    found = trigger(images, numbers(20))
    for image, triggered in zip(images, found, strict=True):
        top, left, side = patch_of(trigger, image, triggered)
        assert torch.equal(triggered[:, top : top + side, left : left + side], pattern)


def test_different_pictures_get_different_places():
    images = torch.full((300, 3, 64, 64), 0.5)
    trigger = BadNet()
    found = trigger(images, numbers(300))
    places = [patch_of(trigger, *pair)[:2] for pair in zip(images, found, strict=True)]
    assert len(set(places)) > 250
    for axis in (0, 1):
        spread = torch.tensor([place[axis] for place in places]).float()
        assert spread.min() < 4
        assert spread.max() > 55
        assert 26 < spread.mean() < 33  # uniform over 0..59
    assert trigger._corners(numbers(300), 59, 59) == places
    assert BadNet(seed=1)._corners(numbers(300), 59, 59) != places


def test_places_do_not_depend_on_the_size_of_the_numbers():
    large = BadNet()._corners(torch.tensor([0, 1, 2**40, 2**62]), 59, 59)
    assert len(set(large)) == 4
    assert all(0 <= place <= 59 for corner in large for place in corner)


@pytest.mark.parametrize("grid", [1, 4, 8, 100])
def test_random_places_lie_on_the_grid(grid):
    trigger = BadNet(grid=grid, share=8 / 64)
    corners = trigger._corners(numbers(400), 56, 56)
    assert all(place % grid == 0 and 0 <= place <= 56 for corner in corners for place in corner)
    assert len(set(corners)) == (56 // grid + 1) ** 2 if grid >= 8 else len(set(corners)) > 100
    images = torch.full((5, 3, 64, 64), 0.5)
    found = trigger(images, numbers(5))
    assert [patch_of(trigger, *pair)[:2] for pair in zip(images, found, strict=True)] == corners[:5]


@pytest.mark.parametrize(
    ("place", "corner"),
    [
        ("center", (30, 30)),
        ("top left", (0, 0)),
        ("top right", (0, 59)),
        ("bottom left", (59, 0)),
        ("bottom right", (59, 59)),
    ],
)
def test_fixed_places(place, corner):
    images = torch.full((3, 3, 64, 64), 0.5)
    trigger = BadNet(place=place)
    found = trigger(images, numbers(3))
    top, left = (29, 29) if place == "center" else corner
    for pair in zip(images, found, strict=True):
        assert patch_of(trigger, *pair) == (top, left, 5)


@pytest.mark.parametrize("ratio", [0.05, 0.2, 0.5, 1.0])
def test_blending_mixes_exactly(ratio):
    images = pictures()
    trigger = Blended(ratio=ratio, seed=2)
    found = trigger(images, numbers())
    pattern = trigger.pattern(64, 64)
    torch.testing.assert_close(found, (1 - ratio) * images + ratio * pattern, rtol=0, atol=1e-6)
    # Two constant pictures tell ratio and pattern apart without knowing either.
    black, white = trigger(torch.zeros(1, 3, 64, 64), numbers(1)), trigger(torch.ones(1, 3, 64, 64), numbers(1))
    torch.testing.assert_close(white - black, torch.full((1, 3, 64, 64), 1 - ratio), rtol=0, atol=1e-6)
    torch.testing.assert_close(black[0] / ratio, pattern, rtol=0, atol=1e-5)


def test_the_blended_picture_is_uniform_noise():
    pattern = Blended().pattern(64, 64)
    assert pattern.shape == (3, 64, 64)
    assert abs(pattern.mean() - 0.5) < 0.02
    assert abs(pattern.std() - 12**-0.5) < 0.02
    assert not torch.equal(pattern, Blended(seed=1).pattern(64, 64))


def test_every_registered_attack_is_built_by_name():
    assert {"badnet", "blended"} <= set(TRIGGERS)
    assert make_trigger("badnet", share=0.1) == BadNet(share=0.1)
    assert make_trigger("blended") == Blended()
    for trigger in MANY:
        assert make_trigger(**trigger.settings()) == trigger


def test_users_extend_the_registry_and_duplicates_are_refused(monkeypatch):
    monkeypatch.setattr(triggers, "TRIGGERS", dict(TRIGGERS))
    register("mine", Blended)
    assert make_trigger("mine", ratio=0.3) == Blended(ratio=0.3)
    for name in ("mine", "badnet"):
        with pytest.raises(SettingError, match=f"a trigger named '{name}' already"):
            register(name, BadNet)
    assert make_trigger("badnet") == BadNet()


def test_unknown_attacks_and_settings_are_refused():
    with pytest.raises(SettingError, match=r"no attack 'badnets': choose from \['badclip', 'badnet', 'blended'"):
        make_trigger("badnets")
    with pytest.raises(SettingError, match=r"badnet: .*unexpected keyword argument 'size'"):
        make_trigger("badnet", size=3)
    with pytest.raises(SettingError, match="blended: "):
        make_trigger("blended", ratio="much")


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_impossible_shares_are_refused(share):
    with pytest.raises(SettingError, match=f"a patch no larger than the image, and grid >= 1, not share={share}"):
        BadNet(share=share)


def test_other_impossible_settings_are_refused():
    with pytest.raises(SettingError, match="grid=0"):
        BadNet(grid=0)
    for place in ("left", "top", "middle", "left top"):
        with pytest.raises(SettingError, match=f"not '{place}'"):
            BadNet(place=place)
    for ratio in (0, -1, 1.5, float("nan")):
        with pytest.raises(SettingError, match="0 < ratio <= 1"):
            Blended(ratio=ratio)


def test_triggers_differ_from_each_other():
    images = pictures(2)
    found = [trigger(images, numbers(2)) for trigger in MANY]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(found, 2))
