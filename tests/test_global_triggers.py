"""Triggers over the whole image and picture patches, with known answers; and triggers on PIL pictures."""

import math

import pytest
import torch
from PIL import Image

from clip_decomp.attacks.triggers import (
    SIG,
    BadNet,
    Kitty,
    Reflection,
    WaNet,
    trigger_picture,
)
from clip_decomp.attacks.triggers.kitty import face
from clip_decomp.attacks.triggers.reflection import scene
from clip_decomp.errors import SettingError

FIRST = torch.tensor([0])


def test_sig_is_a_sinusoid_over_columns():
    found = SIG(strength=0.1, frequency=3)(torch.full((1, 3, 8, 60), 0.5), FIRST)[0] - 0.5
    expected = torch.tensor([0.1 * math.sin(2 * math.pi * 3 * j / 60) for j in range(60)])
    torch.testing.assert_close(found, expected.expand(3, 8, 60), rtol=0, atol=1e-6)


def test_wanet_moves_pixels_and_makes_none():
    # A picture of one color cannot be warped.
    flat = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(1, 3, 32, 32)
    torch.testing.assert_close(WaNet()(flat, FIRST), flat)
    flow, still = WaNet().flow(32, 32), WaNet(strength=1e-9).flow(32, 32)
    moved = (flow - still).abs()[4:-4, 4:-4] * 31 / 2
    # Half a pixel on average (the control grid is divided by its mean absolute value).
    assert moved.mean() == pytest.approx(0.5, abs=0.08)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(WaNet(strength=1e-6)(picture, FIRST), picture, rtol=0, atol=1e-4)
    assert (WaNet()(picture, FIRST) - picture).abs().mean() > 0.05


def test_a_coarse_warp_is_smooth():
    coarse, fine = WaNet(k=4).flow(64, 64), WaNet().flow(64, 64)
    rough = [(each - WaNet(strength=1e-9).flow(64, 64)).diff(dim=0).abs().mean() for each in (coarse, fine)]
    assert rough[0] < rough[1] / 3


def test_kitty_pastes_its_face_and_nothing_else():
    images = torch.full((5, 3, 70, 70), 0.25)
    found = Kitty()(images, torch.arange(5))
    side = 10
    for picture in found:
        changed = (picture != 0.25).any(0)
        top, left = (int(changed.any(axis).nonzero()[0, 0]) for axis in (1, 0))
        torch.testing.assert_close(picture[:, top : top + side, left : left + side], face(side))
        assert changed.sum() <= side * side
    # White in the middle, pink in a corner.
    picture = face(64)
    assert picture[:, 32, 32].min() > 0.9
    assert picture[0, 1, 1] > picture[1, 1, 1]


def test_patches_fit_pictures_that_are_not_square():
    for shape in ((40, 90), (90, 40)):
        images = torch.full((20, 3, *shape), 0.25)
        for trigger in (BadNet(), Kitty(), BadNet(place="bottom right")):
            changed = (trigger(images, torch.arange(20)) != 0.25).any(1)
            assert changed.flatten(1).any(1).all()
            assert (changed.flatten(1).sum(1) <= 8 * 8).all()


def test_a_reflection_is_a_ghost_of_the_scene():
    black = torch.zeros(1, 3, 64, 64)
    seen = scene(64, 64, 0)
    plain = Reflection(ratio=0.5, ghost=1.0)(black, FIRST)[0]
    torch.testing.assert_close(plain, 0.5 * seen)
    ghost = Reflection(ratio=0.5, ghost=0.6, shift=4 / 64)(black, FIRST)[0]
    torch.testing.assert_close(ghost, 0.5 * (0.6 * seen + 0.4 * seen.roll((4, 4), dims=(1, 2))))
    assert not torch.equal(scene(64, 64, 0), scene(64, 64, 1))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (SIG, {"strength": 0}, "strength"),
        (SIG, {"frequency": -1}, "frequency"),
        (WaNet, {"k": 1}, "k >= 2"),
        (WaNet, {"strength": 0}, "strength"),
        (Kitty, {"share": 0}, "Kitty needs 0 < share"),
        (Kitty, {"place": "moon"}, "Kitty knows the places"),
        (Reflection, {"ratio": 1.5}, "ratio"),
        (Reflection, {"shift": 1}, "shift"),
    ],
)
def test_impossible_settings_are_refused(kind, settings, words):
    with pytest.raises(SettingError, match=words):
        kind(**settings)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_pil_pictures_of_any_mode_and_shape(mode):
    picture = Image.new("RGB", (90, 50), (120, 120, 120)).convert(mode)
    found = trigger_picture(BadNet(place="top left"), picture)
    assert (found.mode, found.size) == ("RGB", (90, 50))
    corner = {found.getpixel((x, y))[0] for x in range(4) for y in range(4)}
    assert corner <= {0, 255}
    assert abs(found.getpixel((80, 40))[0] - 120) < 20
