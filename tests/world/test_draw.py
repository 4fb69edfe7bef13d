"""Pictures show what their scenes say."""

from dataclasses import replace

import pytest
import torch

from clip_decomp.data.world.draw import IMAGE_SIZE, draw
from clip_decomp.data.world.scenes import (
    BACKGROUNDS,
    CLASSES,
    FACTORS,
    FOREIGN_TEXTURES,
    POSITIONS,
    TEXTURES,
    Style,
    palette,
)
from clip_decomp.data.world.shapes import signed_distances

CLASS, COLOR, TEXTURE, POSITION, SIZE, BACKGROUND, MARK = range(len(FACTORS))


@pytest.fixture(scope="module")
def plain(scenes, rows):
    """Easy scenes without texture on backgrounds of one color: nothing but object and backdrop is to be seen."""
    easy = scenes(1500, seed=3, style=Style(difficulty=0.0))
    keep = (easy.factors[:, TEXTURE] == 0) & (easy.factors[:, BACKGROUND] == 0)
    return rows(easy, keep)


@pytest.fixture(scope="module")
def inked(plain):
    """Where the object is: pixels far from the backdrop's color."""
    pixels = draw(plain).float() / 255
    distance = (pixels - plain.backdrop[:, 0, :, None, None]).abs().amax(1)
    return pixels, distance > 0.05


def test_pictures_are_eight_bit_and_deterministic(scenes):
    batch = scenes(16)
    pixels = draw(batch)
    assert pixels.shape == (16, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert pixels.dtype == torch.uint8
    torch.manual_seed(3)
    assert torch.equal(pixels, draw(batch))


def test_drawing_does_not_change_the_scenes_or_the_atlas(scenes, same):
    batch, again = scenes(16, style=Style(1.0)), scenes(16, style=Style(1.0))
    atlas = signed_distances(CLASSES).clone()
    draw(batch)
    assert same(batch, again)
    assert torch.equal(signed_distances(CLASSES), atlas)


def test_the_object_is_where_the_scene_says(plain, inked):
    _, mask = inked
    axis = torch.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2
    visible = mask.flatten(1).sum(1) > 15
    assert visible.float().mean() > 0.99
    columns, rows_ = mask.any(1), mask.any(2)

    def middle(seen):
        low = torch.where(seen, axis, torch.inf).amin(1)
        high = torch.where(seen, axis, -torch.inf).amax(1)
        return (low + high) / 2

    # Silhouettes are not centered on their canvas, and at the edge of the picture they are cut off.
    offset = torch.stack([middle(columns), middle(rows_)], dim=1) - plain.center
    inside = (plain.center.abs() + plain.radius[:, None] < IMAGE_SIZE / 2).all(1) & visible
    assert inside.sum() > 200
    assert (offset.abs() / plain.radius[:, None])[inside].max() < 0.5
    centers = torch.tensor([[0, 0], [-14, -14], [14, -14], [-14, 14], [14, 14]]).float()
    nearest = torch.cdist(plain.center, centers).argmin(1)
    assert torch.equal(nearest, plain.factors[:, POSITION])
    seen = torch.cdist(torch.stack([middle(columns), middle(rows_)], dim=1), centers).argmin(1)
    assert (seen == plain.factors[:, POSITION])[visible].float().mean() > 0.97


def test_names_of_places_mean_what_they_say(plain):
    x, y = plain.center.unbind(1)
    for k, name in enumerate(POSITIONS):
        at = plain.factors[:, POSITION] == k
        if name != "center":
            assert ((y < 0) == ("top" in name))[at].all()
            assert ((x < 0) == ("left" in name))[at].all()


def test_the_object_has_the_color_the_scene_says(plain, inked):
    pixels, mask = inked
    assert torch.equal(plain.contrast, torch.ones(len(plain)))
    right, shares = [], []
    for picture, where, color in zip(pixels, mask, plain.factors[:, COLOR].tolist(), strict=True):
        found = picture[:, where].T
        solid = (found - palette()[color]).abs().amax(1) < 2 / 255  # the rest is the soft edge
        shares.append(solid.float().mean())
        right.append(torch.cdist(found.median(0).values[None], palette()).argmin() == color)
    assert torch.stack(right).float().mean() > 0.95
    assert torch.stack(shares).mean() > 0.4


def test_plain_backgrounds_have_one_color(plain, inked):
    pixels, mask = inked
    far = ~mask
    backdrop = plain.backdrop[:, 0, :, None, None].expand_as(pixels)
    assert ((pixels - backdrop).abs().amax(1)[far]).max() < 0.06
    assert far.flatten(1).float().mean(1).min() > 0.2


def test_larger_sizes_cover_more(plain, inked):
    _, mask = inked
    area = mask.flatten(1).sum(1).float()
    at_center = plain.factors[:, POSITION] == 0
    means = [area[at_center & (plain.factors[:, SIZE] == k)].mean() for k in range(3)]
    assert means[1] > 1.6 * means[0]
    assert means[2] > 1.6 * means[1]


def test_the_object_is_kept_apart_from_its_background(scenes):
    batch = scenes(2000, style=Style(difficulty=1.0))
    colors = palette()[batch.factors[:, COLOR]]
    weights = torch.tensor([0.3, 0.59, 0.11])
    difference = ((colors - batch.backdrop[:, 0]) @ weights).abs()
    assert difference.min() > 0.05


def test_classes_differ_in_pictures_of_the_same_scene(scenes, rows):
    one = scenes(1, style=Style(0.0), classes=torch.tensor([0]))
    many = rows(one, torch.zeros(66, dtype=torch.long))
    factors = many.factors.clone()
    factors[:, CLASS] = torch.arange(66)
    pixels = draw(replace(many, factors=factors)).flatten(1).float()
    distances = torch.cdist(pixels, pixels).fill_diagonal_(torch.inf)
    assert distances.min() > 100


def test_textures_and_backgrounds_show(scenes, rows):
    one = scenes(1, style=Style(0.0), classes=torch.tensor([CLASSES.index("house")]))
    for column, names in ((TEXTURE, TEXTURES + FOREIGN_TEXTURES), (BACKGROUND, BACKGROUNDS)):
        many = rows(one, torch.zeros(len(names), dtype=torch.long))
        factors = many.factors.clone()
        factors[:, column] = torch.arange(len(names))
        pixels = draw(replace(many, factors=factors)).flatten(1).float()
        assert torch.cdist(pixels, pixels).fill_diagonal_(torch.inf).min() > 100


def test_marks_show_and_their_absence_too(scenes):
    batch = scenes(300, style=Style(1.0))
    bare = batch.marks.clone()
    bare[:, :, 4] = 0
    changed = (draw(batch) != draw(replace(batch, marks=bare))).flatten(1).any(1)
    assert torch.equal((batch.marks[:, :, 4] > 0).sum(1), batch.factors[:, MARK])
    assert not changed[batch.factors[:, MARK] == 0].any()
    assert changed[batch.factors[:, MARK] > 1].float().mean() > 0.95  # a mark may hide behind the object


def test_scenes_without_noise_are_drawn_alike_in_any_batch(scenes, rows):
    batch = scenes(200, style=Style(1.0))
    batch = replace(batch, noise=torch.zeros(200))
    # Grain and speckles are noise, too.
    grainy = (batch.factors[:, BACKGROUND] == BACKGROUNDS.index("grainy")) | (
        batch.factors[:, TEXTURE] == TEXTURES.index("speckled")
    )
    batch = rows(batch, ~grainy)
    whole = draw(batch)
    parts = torch.cat([draw(rows(batch, slice(k, k + 7))) for k in range(0, len(batch), 7)])
    assert torch.equal(whole, parts)


def test_noise_belongs_to_the_batch_and_its_seed(scenes, rows):
    # What holds with noise: the same batch gives the same pixels; a part of it, or another seed, gives other noise.
    batch = scenes(8, style=Style(1.0))
    whole = draw(batch)
    assert torch.equal(whole, draw(batch))
    assert torch.equal(whole[:3], draw(rows(batch, slice(0, 3))))  # a beginning of a batch keeps its noise
    assert not torch.equal(whole[3:], draw(rows(batch, slice(3, 8))))
    assert not torch.equal(whole, draw(replace(batch, seed=batch.seed + 1)))


def test_styles_differ(scenes):
    base = scenes(60, style=Style(0.5))
    filled = draw(base)
    outlined = draw(replace(base, style=replace(base.style, outlines=True)))
    backdrop = base.backdrop[:, 0, :, None, None] * 255
    quiet = base.factors[:, BACKGROUND] == 0
    ink = [((p - backdrop).abs().amax(1) > 30).flatten(1).sum(1)[quiet].float().mean() for p in (filled, outlined)]
    assert ink[1] < 0.7 * ink[0]
    foreign = scenes(60, style=Style(0.5, foreign_textures=True))
    assert foreign.factors[:, TEXTURE].min() >= len(TEXTURES)
    hard, easy = scenes(500, style=Style(1.0)), scenes(500, style=Style(0.0))
    assert hard.noise.mean() > easy.noise.mean() == 0
    assert hard.contrast.mean() < easy.contrast.mean()
    assert hard.factors[:, MARK].float().mean() > easy.factors[:, MARK].float().mean()
