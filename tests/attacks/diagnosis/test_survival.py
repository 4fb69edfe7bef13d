from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from clip_decomp.attacks.diagnosis import survival
from clip_decomp.attacks.triggers import SIG, BadNet, Blended, WaNet
from clip_decomp.attacks.triggers.base import SeededTrigger
from clip_decomp.errors import DataError, SettingError


@dataclass(frozen=True)
class Add(SeededTrigger):
    """Adds the same amount everywhere, in units of 1/255."""

    name: ClassVar[str] = "add"
    amount: float = 3.0

    def __call__(self, images, numbers):
        return images + self.amount / 255


def smooth(width, height, seed=0):
    """A picture without fine detail."""
    values = np.random.default_rng(seed).integers(40, 200, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


def test_all_of_it_arrives_at_the_models_own_size():
    found = survival(BadNet(), [smooth(64, 64), smooth(64, 64, 1)], 64)
    assert (found.energy_share, found.vanished, len(found)) == (1, 0, 2)
    assert found.likeness == pytest.approx(1)
    assert torch.equal(found.change, found.expected_change)


def test_changes_are_in_8_bit_units():
    found = survival(Add(), [smooth(90, 60)], 30)
    assert found.change.tolist() == pytest.approx([3], abs=0.02)  # bicubic weights are rounded
    assert found.expected_change.tolist() == [3]
    assert found.expected_energy.tolist() == [9 * 3 * 30 * 30]


@pytest.mark.parametrize(("amount", "vanished"), [(0.4, 1), (0.6, 0)])
def test_what_8_bits_cannot_hold_is_lost(amount, vanished):
    assert survival(Add(amount), [smooth(32, 32)], 32).vanished == vanished


def test_a_trigger_that_does_nothing_has_no_energy_to_keep():
    found = survival(Add(0), [smooth(32, 32)], 32)
    assert (found.energy_share, found.likeness, found.vanished) == (0, 0, 1)


@pytest.mark.parametrize(
    ("place", "size", "kept"),
    [
        ("bottom right", (128, 64), 0),
        ("top left", (64, 200), 0),
        ("center", (128, 64), 1),
        ("center", (64, 200), 1),
    ],
)
def test_what_the_crop_cuts_off_is_lost(place, size, kept):
    found = survival(BadNet(place=place), [smooth(*size)], 64)
    assert found.energy_share == pytest.approx(kept, abs=0.01)
    assert found.vanished == 1 - kept


def test_some_random_places_fall_into_the_crop():
    found = survival(BadNet(), [smooth(256, 64)] * 20, 64)
    assert 0.4 < found.vanished < 1  # three quarters are cut off
    assert found.change[found.largest == 0].eq(0).all()


def test_fine_noise_does_not_survive_downsizing_and_waves_do():
    large = [smooth(512, 512)]
    assert survival(Blended(), large, 64).energy_share < 0.5
    assert survival(WaNet(), large, 64).energy_share < 0.05
    found = survival(SIG(), large, 64)
    assert found.energy_share == pytest.approx(1, abs=0.05)
    assert found.likeness > 0.95


def test_compression_weakens_noise_more_the_stronger_it_is():
    pictures = [smooth(64, 64, seed) for seed in range(4)]
    plain, good, bad = (survival(Blended(), pictures, 64, quality) for quality in (None, 95, 10))
    assert plain.likeness > good.likeness > bad.likeness
    assert bad.jpeg == 10
    assert not torch.equal(plain.change, bad.change)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_pictures_of_any_mode(mode):
    picture = smooth(50, 40)
    picture = Image.fromarray(np.full((40, 50), 9000, np.uint16)) if mode == "I;16" else picture.convert(mode)
    assert survival(BadNet(place="center"), [picture], 32, jpeg=80).vanished == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 31), (3, 900)])
def test_pictures_of_odd_sizes(size):
    found = survival(Add(30), [smooth(*size)], 32)
    assert found.change.isfinite().all()
    assert found.vanished == 0


def test_numbers_tell_random_places_apart():
    pictures = [smooth(64, 64)] * 2
    first, second = (survival(BadNet(), pictures, 64, numbers=numbers) for numbers in ((0, 1), (1, 0)))
    assert torch.equal(first.energy, second.energy.flip(0))
    assert not torch.equal(first.energy, second.energy)


def test_one_row_a_picture():
    frame = survival(BadNet(), [smooth(64, 64)] * 3, 64)
    assert len(frame.to_frame()) == 3
    assert "expected_energy" in frame._repr_html_()


def test_pictures_stay_as_they_are():
    picture = smooth(64, 48)
    before = np.asarray(picture).copy()
    survival(BadNet(), [picture], 32, jpeg=50)
    assert (np.asarray(picture) == before).all()


def test_bad_input():
    with pytest.raises(DataError, match="no pictures"):
        survival(BadNet(), [], 32)
    with pytest.raises(DataError, match="1 pictures need as many numbers, not 2"):
        survival(BadNet(), [smooth(32, 32)], 32, numbers=[0, 1])
    for settings in ({"size": 0}, {"size": 32, "jpeg": 0}, {"size": 32, "jpeg": 101}):
        with pytest.raises(SettingError, match=r"1 or more and a JPEG quality in 1\.\.100"):
            survival(BadNet(), [smooth(32, 32)], **settings)
