"""The twelve corruptions: what each promises, and values by hand."""

import pytest
import torch

from clip_decomp.errors import SettingError
from defenses.corruptions import CORRUPTIONS, corrupt


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_a_corruption_keeps_shape_and_range_and_is_decided_by_the_seed(name):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 6, generator=generator), (48, 40), mode="bilinear")
    before = smooth.clone()
    weak, strong = corrupt(smooth, name, 1), corrupt(smooth, name, 5)
    assert weak.shape == smooth.shape
    assert weak.dtype == smooth.dtype
    assert 0 <= strong.min() <= strong.max() <= 1
    assert (strong - smooth).abs().mean() > (weak - smooth).abs().mean() > 0
    assert torch.equal(corrupt(smooth, name, 5), strong)
    torch.testing.assert_close(corrupt(smooth[1:2], name, 5), strong[1:2])
    assert torch.equal(smooth, before)
    by_seed = name not in ("brightness", "contrast", "pixelate", "jpeg-compression")
    assert torch.equal(corrupt(smooth, name, 5, seed=1), strong) is not by_seed


def test_corruptions_that_do_not_exist():
    for name, severity, word in (("rain", 1, "rain"), ("fog", 6, "6"), ("fog", 0, "0")):
        with pytest.raises(SettingError, match=word):
            corrupt(torch.rand(1, 3, 8, 8), name, severity)


def test_corruptions_by_hand():
    gray = torch.full((1, 3, 8, 8), 0.4)
    torch.testing.assert_close(corrupt(gray, "brightness", 3), gray + 0.3)
    torch.testing.assert_close(corrupt(gray, "contrast", 5), gray)
    torch.testing.assert_close(corrupt(gray, "motion-blur", 5), gray)
    torch.testing.assert_close(corrupt(gray, "elastic-transform", 5), gray)
    colored = torch.tensor([0.2, 0.1, 0.0])[None, :, None, None].expand(1, 3, 8, 8)
    torch.testing.assert_close(corrupt(colored, "brightness", 2), 2 * colored)
    halves = torch.cat([torch.zeros(1, 3, 8, 4), torch.ones(1, 3, 8, 4)], -1)
    torch.testing.assert_close(corrupt(halves, "contrast", 3)[..., 0], torch.full((1, 3, 8), 0.4))
    assert corrupt(gray, "pixelate", 5).unique().numel() == 1
    spots = corrupt(torch.full((1, 3, 128, 128), 0.5), "impulse-noise", 5)
    assert (spots == 0).float().mean() == pytest.approx(0.135, abs=0.01)
    assert (spots == 1).float().mean() == pytest.approx(0.135, abs=0.01)
