"""Pictures of what the attacker did, side by side."""

import pytest
from PIL import Image

from clip_decomp.attacks.sheet import Exhibit, contact_sheet, difference
from clip_decomp.errors import DataError


def test_differences_are_amplified_around_gray():
    before, after = (Image.new("RGB", (2, 2), color) for color in ((100, 100, 100), (103, 98, 200)))
    assert difference(before, before).getpixel((0, 0)) == (128, 128, 128)
    assert difference(before, after).getpixel((0, 0)) == (143, 118, 255)


def test_sheets_of_all_sizes_stay_1200_wide():
    exhibits = [
        Exhibit(k, "a long caption with\nmany words " * 20, Image.new("RGB", shape), Image.new("RGB", shape))
        for k, shape in enumerate([(64, 64), (1, 300), (2000, 30), (224, 224), (8, 8), (300, 200)])
    ]
    heights = [contact_sheet(exhibits[:n]).size for n in (1, 5, 6)]
    assert [width for width, _ in heights] == [1200] * 3
    assert heights[0] == heights[1]
    assert heights[2][1] > 1.9 * heights[1][1]
    with pytest.raises(DataError, match="no poisoned pictures to show"):
        contact_sheet([])
