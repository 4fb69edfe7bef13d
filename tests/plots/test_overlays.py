"""Overlays hold the values that they are given, under one stated scale, in few bytes."""

import base64
import io
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from clip_decomp.errors import DataError, SettingError
from clip_decomp.plots import overlay, overlay_grid

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 255, (3, 16, 16), dtype=np.uint8)
HOSTILE = "<script>alert(1)</script> & <b>bold</b>"


def image_of(source) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1])))


def heads(count: int) -> list[str]:
    return [f"L{place // 12}H{place % 12}" for place in range(count)]


def domains(settings: dict, letter: str) -> list[tuple[float, ...]]:
    return [tuple(value) for key, value in settings.items() if re.fullmatch(rf"{letter}axis\d*\.domain", key)]


def test_overlay_shows_the_picture_and_the_heat_map_on_it():
    heat = np.array([[0.5, -2.0], [0.0, 1.0]])
    before = heat.copy()
    figure = overlay(PICTURE, heat, "One picture", "push (cosine)")
    (trace,) = figure.data
    np.testing.assert_allclose(trace.z, heat)
    # Two panels of 16 pixels and a gap of 1; cells of 8 pixels, centers first.
    assert (trace.x0, trace.dx, trace.y0, trace.dy) == (17 + 4, 8, 4, 8)
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-2, 2)
    assert axis.colorbar.title.text == "push (cosine)"
    assert axis.colorscale[2] == (0.5, "rgba(255,255,255,0)")
    assert [note.text for note in figure.layout.annotations] == ["picture", "heat map"]
    sheet = np.asarray(image_of(figure.layout.images[0].source))
    assert sheet.shape == (16, 33, 3)
    assert np.array_equal(heat, before)


def test_the_picture_is_kept_where_there_is_no_heat_and_pale_gray_under_it():
    figure = overlay(PICTURE, np.eye(2), "One picture", "share", diverging=False)
    source = figure.layout.images[0].source
    assert source.startswith("data:image/png")  # a trigger's noise is not to be washed out
    sheet = np.asarray(image_of(source)).astype(int)
    np.testing.assert_array_equal(sheet[:, :16], PICTURE.transpose(1, 2, 0))
    assert (sheet[:, 16] == 255).all()
    under = sheet[:, 17:]
    assert (under == under[..., :1]).all()
    assert under.min() >= 90
    gray = PICTURE.transpose(1, 2, 0) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(under[..., 0], 90 + gray * 165 / 255, atol=1.5)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_a_grid_of_heads_shares_one_scale_and_axes():
    maps = torch.randn(12, 4, 4, generator=torch.Generator().manual_seed(0))
    before = maps.clone()
    figure = overlay_grid(torch.from_numpy(PICTURE), maps, heads(12), "Heads", "push (cosine)")
    assert [trace.name for trace in figure.data] == heads(12)
    for trace, heat in zip(figure.data, maps, strict=True):
        np.testing.assert_array_equal(trace.z, heat.numpy())
        assert trace.coloraxis == "coloraxis"
    assert figure.layout.coloraxis.cmax == pytest.approx(maps.abs().max().item())
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    # Three panels always lie side by side: six columns on a desk, three on a phone.
    assert len(figure.layout.images) == 4
    assert [trace.xaxis for trace in figure.data] == ["x"] * 3 + ["x2"] * 3 + ["x3"] * 3 + ["x4"] * 3
    assert figure.data[4].x0 == 17 + 2
    assert figure.layout.yaxis2.scaleanchor == "x2"
    assert figure.layout.yaxis2.range == (16, 0)
    assert torch.equal(maps, before)


def test_a_grid_has_two_layouts_with_nothing_overlapping():
    figure = overlay_grid(PICTURE, RNG.normal(size=(144, 4, 4)), heads(144), "Heads", "push (cosine)")
    meta = figure.layout.meta
    assert meta["wide"].keys() == meta["narrow"].keys()
    assert meta["narrow"]["height"] > meta["wide"]["height"]
    for screen, across in (("wide", 2), ("narrow", 1)):
        x, y = (domains(meta[screen], letter) for letter in "xy")
        assert len(x) == 24
        assert len(set(x)) == across
        assert len(set(y)) == 24 // across
        rows = sorted(set(y))
        assert rows[0][0] >= 0
        assert rows[-1][1] < 1
        plot = meta[screen]["height"] - figure.layout.margin.t - figure.layout.margin.b
        gaps = [(upper[0] - lower[1]) * plot for lower, upper in pairwise(rows)]
        assert min(gaps) > 17  # room for a line of names
    assert list(figure.layout.xaxis2.domain) == meta["wide"]["xaxis2.domain"]
    assert figure.layout.coloraxis.colorbar.y == meta["wide"]["coloraxis.colorbar.y"]
    assert figure.layout.width is None
    assert min(note.font.size for note in figure.layout.annotations) >= 12


def test_144_heads_on_a_photograph_are_light():
    smooth = np.asarray(Image.fromarray(PICTURE.transpose(1, 2, 0)).resize((224, 224))).transpose(2, 0, 1)
    figure = overlay_grid(smooth, RNG.normal(size=(144, 14, 14)), heads(144), "Heads", "push (cosine)")
    assert image_of(figure.layout.images[0].source).width < 6 * 224
    assert len(figure.to_json()) < 600_000


def test_columns_can_be_chosen():
    figure = overlay_grid(PICTURE, np.zeros((7, 2, 2)), heads(7), "Heads", "share", columns=4, narrow_columns=3)
    assert len(figure.layout.images) == 7
    assert len(set(domains(figure.layout.meta["wide"], "x"))) == 4
    assert len(set(domains(figure.layout.meta["narrow"], "x"))) == 3
    assert figure.layout.coloraxis.cmax == 1  # zeros everywhere still have a scale


def test_pictures_may_differ_and_some_be_left_plain():
    pictures = RNG.integers(0, 255, (3, 3, 8, 12), dtype=np.uint8)
    figure = overlay_grid(list(pictures), [None, np.ones((2, 3)), -np.ones((2, 3))], "abc", "Three", "share")
    assert [trace.name for trace in figure.data] == ["b", "c"]
    assert [note.text for note in figure.layout.annotations] == ["a", "b", "c"]
    first = np.asarray(image_of(figure.layout.images[0].source))
    np.testing.assert_array_equal(first, pictures[0].transpose(1, 2, 0))
    assert image_of(figure.layout.images[1].source).mode == "L"
    assert figure.layout.yaxis.range == (8, 0)
    assert overlay_grid(pictures, np.ones((3, 2, 2)), "abc", "Three", "share").data[2].name == "c"


def test_a_limit_is_said_where_values_lie_beyond_it():
    heat = np.array([[0.1, -0.9]])
    clipped = overlay(PICTURE, heat, "One", "push (cosine)", limit=0.5).layout.coloraxis
    assert (clipped.cmin, clipped.cmax) == (-0.5, 0.5)
    assert clipped.colorbar.title.text == "push (cosine) (beyond 0.5: last color)"
    free = overlay(PICTURE, heat, "One", "push (cosine)", limit=1).layout.coloraxis
    assert (free.cmin, free.cmax, free.colorbar.title.text) == (-1, 1, "push (cosine)")


def test_names_are_literal_and_broken_into_the_width_of_a_panel():
    figure = overlay_grid(PICTURE, np.ones((2, 2, 2)), [HOSTILE, "%{z}"], HOSTILE, HOSTILE)
    texts = [note.text for note in figure.layout.annotations] + [trace.name for trace in figure.data]
    texts += [figure.layout.title.text, figure.layout.coloraxis.colorbar.title.text]
    assert not any("<script" in text or "<b>" in text or "%{z}" in text for text in texts)
    many = overlay_grid(PICTURE, np.ones((12, 2, 2)), ["a rather long class name"] * 12, "Names", "share")
    assert many.layout.annotations[0].text == "a rather long<br>class name"
    assert many.layout.height > overlay_grid(PICTURE, np.ones((12, 2, 2)), heads(12), "Names", "share").layout.height


@pytest.mark.parametrize(
    ("picture", "heat", "message"),
    [
        (PICTURE, np.zeros(4), r"heat map: a heat map is \[row, column\], not of shape \[4\]"),
        (PICTURE, np.array([[0.0, np.nan]]), "heat map: 1 values of the heat map are not finite"),
        (PICTURE / 255, np.zeros((2, 2)), r"uint8 of \[3, row, column\] and one size, not float64"),
        (PICTURE[:1], np.zeros((2, 2)), r"\[1, 16, 16\]"),
    ],
)
def test_what_cannot_be_drawn_is_named(picture, heat, message):
    with pytest.raises(DataError, match=message):
        overlay(picture, heat, "One", "share")


def test_grids_that_do_not_match_are_refused():
    maps = np.zeros((3, 2, 2))
    with pytest.raises(SettingError, match="3 heat maps, 2 names and 3 pictures"):
        overlay_grid(PICTURE, maps, "ab", "Three", "share")
    with pytest.raises(SettingError, match="3 heat maps, 3 names and 2 pictures"):
        overlay_grid([PICTURE, PICTURE], maps, "abc", "Three", "share")
    with pytest.raises(DataError, match=r"\[3, 8, 16\]"):
        overlay_grid([PICTURE, PICTURE, PICTURE[:, :8]], maps, "abc", "Three", "share")
    with pytest.raises(SettingError, match="0 heat maps"):
        overlay_grid(PICTURE, [], [], "None", "share")
    with pytest.raises(SettingError, match="no heat map among the panels"):
        overlay_grid(PICTURE, [None], ["a"], "None", "share")
    with pytest.raises(SettingError, match="one column or more, not 0 and 2"):
        overlay_grid(PICTURE, maps, "abc", "Three", "share", columns=0, narrow_columns=2)
    with pytest.raises(SettingError, match=r"end of a color scale is positive, not -1"):
        overlay(PICTURE, maps[0], "One", "share", limit=-1)
