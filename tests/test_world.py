import re
from dataclasses import replace

import pytest
import torch

from clip_decomp.data.pairs import SILENT, UNKNOWN, matches, step_generator
from clip_decomp.data.world.captions import COUNTS, article, write_captions
from clip_decomp.data.world.draw import IMAGE_SIZE, draw
from clip_decomp.data.world.scenes import (
    BACKGROUNDS,
    CLASSES,
    COLORS,
    FACTORS,
    FOREIGN_TEXTURES,
    MAX_MARKS,
    POSITIONS,
    SIZES,
    TEXTURES,
    Style,
    palette,
    sample_scenes,
)
from clip_decomp.data.world.sets import RECIPES, world_scenes, world_set, world_split
from clip_decomp.data.world.shapes import EXTENT, MARKS, SILHOUETTES, signed_distances
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError

CLASS, COLOR, TEXTURE, POSITION, SIZE, BACKGROUND, MARK = range(len(FACTORS))
ALL = torch.arange(len(CLASSES))
PLAIN_STYLE = Style()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scenes(n=64, seed=0, style=PLAIN_STYLE, classes=ALL, **kwargs):
    return sample_scenes(n, generator(seed), classes, style, **kwargs)


def rows(batch, chosen):
    """Some scenes of a batch."""
    tensors = {name: value[chosen] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return replace(batch, **tensors)


def same(a, b):
    return all(
        torch.equal(value, getattr(b, name)) if isinstance(value, torch.Tensor) else value == getattr(b, name)
        for name, value in vars(a).items()
    )


@pytest.fixture(scope="module")
def plain():
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


# --- silhouettes ------------------------------------------------------------------------------------------------------


def test_all_silhouettes_are_there_and_differ():
    assert len(CLASSES) == 66
    masks = signed_distances(CLASSES) < 0
    assert masks.shape == (66, 96, 96)
    areas = masks.flatten(1).sum(1)
    assert areas.min() > 0.02 * 96 * 96
    flat = masks.flatten(1).float()
    overlap = flat @ flat.T
    union = areas[:, None] + areas[None] - overlap
    alike = (overlap / union).fill_diagonal_(0)
    assert alike.max() < 0.95, [CLASSES[k] for k in divmod(int(alike.argmax()), 66)]


def test_silhouettes_stay_inside_their_canvas():
    border = signed_distances(CLASSES)
    edges = torch.cat([border[:, 0], border[:, -1], border[:, :, 0], border[:, :, -1]], dim=1)
    assert edges.min() > 0


def test_distances_are_distances():
    (field,) = signed_distances(("donut",))  # radius 0.85, with a hole of radius 0.32
    axis = ((torch.arange(96) + 0.5) / 96 * 2 - 1) * EXTENT
    radius = (axis[None] ** 2 + axis[:, None] ** 2).sqrt()
    expected = torch.maximum(radius - 0.85, 0.32 - radius)
    near = expected.abs() < 0.2
    assert (field - expected)[near].abs().max() < 0.03


def test_marks_are_no_classes_and_unknown_names_are_refused():
    assert not set(MARKS) & set(SILHOUETTES)
    assert (signed_distances(tuple(MARKS)) < 0).flatten(1).any(1).all()
    with pytest.raises(KeyError, match="unicorn"):
        signed_distances(("unicorn",))


# --- scenes -----------------------------------------------------------------------------------------------------------


def test_scenes_depend_on_the_generator_alone():
    torch.manual_seed(1)
    first = scenes()
    torch.manual_seed(2)
    assert same(first, scenes())
    assert not torch.equal(first.factors, scenes(seed=1).factors)


def test_factors_stay_in_range_and_all_occur():
    factors = scenes(4000, style=Style(difficulty=1.0)).factors
    counts = (66, len(COLORS), len(TEXTURES), len(POSITIONS), len(SIZES), len(BACKGROUNDS), MAX_MARKS + 1)
    for column, count in enumerate(counts):
        assert factors[:, column].unique().tolist() == list(range(count)), FACTORS[column]


def test_classes_are_uniform_over_those_asked_for():
    found = scenes(3000, classes=torch.tensor([5, 9, 60])).factors[:, CLASS].bincount(minlength=66)
    assert found.nonzero()[:, 0].tolist() == [5, 9, 60]
    assert found[[5, 9, 60]].min() > 900


def test_difficulty_can_be_given_for_each_scene():
    hard = torch.cat([torch.zeros(500), torch.ones(500)])
    batch = scenes(1000, difficulty=hard)
    assert batch.noise[:500].max() == 0
    assert batch.noise[500:].mean() > 0.02
    assert batch.contrast[:500].min() == 1
    assert batch.factors[:500, MARK].max() == 0
    assert batch.angle[500:].abs().max() > 3 * batch.angle[:500].abs().max()


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="name at least one class"):
        scenes(3, classes=torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="Cannot sample -1 scenes"):
        scenes(-1)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_are_eight_bit_and_deterministic():
    batch = scenes(16)
    pixels = draw(batch)
    assert pixels.shape == (16, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert pixels.dtype == torch.uint8
    torch.manual_seed(3)
    assert torch.equal(pixels, draw(batch))


def test_drawing_does_not_change_the_scenes_or_the_atlas():
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


def test_the_object_is_kept_apart_from_its_background():
    batch = scenes(2000, style=Style(difficulty=1.0))
    colors = palette()[batch.factors[:, COLOR]]
    weights = torch.tensor([0.3, 0.59, 0.11])
    difference = ((colors - batch.backdrop[:, 0]) @ weights).abs()
    assert difference.min() > 0.05


def test_classes_differ_in_pictures_of_the_same_scene():
    one = scenes(1, style=Style(0.0), classes=torch.tensor([0]))
    many = rows(one, torch.zeros(66, dtype=torch.long))
    factors = many.factors.clone()
    factors[:, CLASS] = torch.arange(66)
    pixels = draw(replace(many, factors=factors)).flatten(1).float()
    distances = torch.cdist(pixels, pixels).fill_diagonal_(torch.inf)
    assert distances.min() > 100


def test_textures_and_backgrounds_show():
    one = scenes(1, style=Style(0.0), classes=torch.tensor([CLASSES.index("house")]))
    for column, names in ((TEXTURE, TEXTURES + FOREIGN_TEXTURES), (BACKGROUND, BACKGROUNDS)):
        many = rows(one, torch.zeros(len(names), dtype=torch.long))
        factors = many.factors.clone()
        factors[:, column] = torch.arange(len(names))
        pixels = draw(replace(many, factors=factors)).flatten(1).float()
        assert torch.cdist(pixels, pixels).fill_diagonal_(torch.inf).min() > 100


def test_marks_show_and_their_absence_too():
    batch = scenes(300, style=Style(1.0))
    bare = batch.marks.clone()
    bare[:, :, 4] = 0
    changed = (draw(batch) != draw(replace(batch, marks=bare))).flatten(1).any(1)
    assert torch.equal((batch.marks[:, :, 4] > 0).sum(1), batch.factors[:, MARK])
    assert not changed[batch.factors[:, MARK] == 0].any()
    assert changed[batch.factors[:, MARK] > 1].float().mean() > 0.95  # a mark may hide behind the object


def test_scenes_without_noise_are_drawn_alike_in_any_batch():
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


def test_noise_belongs_to_the_batch_and_its_seed():
    # What holds with noise: the same batch gives the same pixels; a part of it, or another seed, gives other noise.
    batch = scenes(8, style=Style(1.0))
    whole = draw(batch)
    assert torch.equal(whole, draw(batch))
    assert torch.equal(whole[:3], draw(rows(batch, slice(0, 3))))  # a beginning of a batch keeps its noise
    assert not torch.equal(whole[3:], draw(rows(batch, slice(3, 8))))
    assert not torch.equal(whole, draw(replace(batch, seed=batch.seed + 1)))


def test_styles_differ():
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


# --- captions ---------------------------------------------------------------------------------------------------------


def claims(text):
    """What a caption says, read back from its words."""
    found = [SILENT] * len(FACTORS)

    def take(pattern, names, column):
        nonlocal text
        match = re.search(pattern.format("|".join(names)), text)
        if match:
            found[column] = names.index(match[1])
            text = text[: match.start()] + " " + text[match.end() :]

    take(r" with ({})$", list(COUNTS), MARK)
    take(r" on an? ({}) background\b", list(BACKGROUNDS), BACKGROUND)
    take(r" (?:at|in) the ({})\b", list(POSITIONS), POSITION)
    take(r"\b({})\b", list(SIZES), SIZE)
    take(r"\b({})\b", list(COLORS), COLOR)
    take(r"\b({})\b", list(TEXTURES), TEXTURE)
    take(r"\b({})\b", sorted(CLASSES, key=len, reverse=True), CLASS)
    if found[CLASS] != SILENT:
        found[CLASS] = CLASSES.index(sorted(CLASSES, key=len, reverse=True)[found[CLASS]])
    return found


def test_captions_state_true_facts_and_only_those_they_list():
    batch = scenes(3000, style=Style(1.0))
    texts, said = write_captions(batch, generator(1))
    assert matches(batch.factors, said).diagonal().all()
    for text, facts in zip(texts, said.tolist(), strict=True):
        assert claims(text) == facts, text


def test_captions_are_silent_often_but_never_about_everything():
    batch = scenes(4000)
    _, said = write_captions(batch, generator(1), class_only=0.4)
    told = said != SILENT
    assert told.any(1).all()
    only = told[:, CLASS] & (told.sum(1) == 1)
    assert 0.4 < only.float().mean() < 0.55
    _, said = write_captions(batch, generator(1), class_only=1.0)
    assert ((said != SILENT).sum(1) == 1).all()
    assert (said[:, CLASS] != SILENT).all()


def test_captions_depend_on_the_generator_alone():
    batch = scenes(20)
    assert write_captions(batch, generator(5))[0] == write_captions(batch, generator(5))[0]
    assert write_captions(batch, generator(5))[0] != write_captions(batch, generator(6))[0]


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("banana", "a banana"),
        ("orange key", "an orange key"),
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("red scissors", "red scissors"),
        ("glasses", "glasses"),
        ("", ""),
    ],
)
def test_articles(noun, expected):
    assert article(noun) == expected


# --- data sets --------------------------------------------------------------------------------------------------------


def test_sets_are_deterministic_and_cached():
    first = world_split("world", "test", 20, 0)
    assert world_split("world", "test", 20, 0) is first
    world_split.cache_clear()
    again = world_split("world", "test", 20, 0)
    assert again is not first
    assert torch.equal(again.source.images, first.source.images)
    assert torch.equal(again.labels, first.labels)
    assert not torch.equal(world_split("world", "test", 20, 1).source.images, first.source.images)


def test_splits_and_sets_share_no_picture():
    seen = set()
    count = 0
    for name in RECIPES:
        for split in ("test", "held_out", "train"):
            for seed in (0, 1):
                for picture in draw(world_scenes(name, split, 12, seed)):
                    seen.add(picture.numpy().tobytes())
                    count += 1
    for step in range(10):
        for picture in WorldPairs(seed=0).batch(step, 12).images:
            seen.add(picture.numpy().tobytes())
            count += 1
    assert len(seen) == count == 7 * 3 * 2 * 12 + 120


@pytest.mark.parametrize("name", RECIPES)
def test_sets_know_their_classes_and_target(name):
    data = world_set(name, test=40, held_out=10, train=5)
    assert (len(data.test), len(data.held_out), len(data.train)) == (40, 10, 5)
    assert data.test.name == name
    assert data.test.target in data.test.class_names
    expected = {"world:tools": "hammer", "world:town": "castle"}.get(name, "banana")
    assert data.test.target == expected
    truth = world_scenes(name, "test", 40)
    assert [data.test.class_names[k] for k in data.test.labels] == [CLASSES[k] for k in truth.factors[:, CLASS]]


def test_the_three_groups_of_classes_share_none():
    groups = [set(world_split(name, "test", 2, 0).class_names) for name in ("world", "world:tools", "world:town")]
    assert [len(group) for group in groups] == [26, 20, 20]
    assert len(set.union(*groups)) == 66


def test_large_sets_are_drawn_in_chunks_with_noise_of_their_own():
    data = world_split("world:hard", "test", 502, 0)
    truth = world_scenes("world:hard", "test", 502)
    assert torch.equal(data.source.images[:500], draw(rows(truth, slice(0, 500))))
    tail = replace(rows(truth, slice(500, 502)), seed=truth.seed + 500)
    assert torch.equal(data.source.images[500:], draw(tail))


def test_sets_and_splits_that_do_not_exist_are_refused():
    with pytest.raises(DataError, match=r"no set 'world:moon': choose from \['world'"):
        world_set("world:moon")
    with pytest.raises(DataError, match=r"world: there is no split 'dev': choose from \['test'"):
        world_scenes("world", "dev", 3)
    for count in (0, -1):
        with pytest.raises(DataError, match=f"world: cannot draw {count} pictures"):
            world_set("world", test=count)


# --- streams of pairs -------------------------------------------------------------------------------------------------


def test_the_stream_depends_on_seed_and_step_alone():
    stream = WorldPairs(seed=4)
    first = stream.batch(7, 6)
    stream.batch(8, 3)
    torch.manual_seed(9)
    again = WorldPairs(seed=4).batch(7, 6)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert torch.equal(first.said, again.said)
    assert not torch.equal(first.images, stream.batch(8, 6).images)
    assert not torch.equal(first.images, WorldPairs(seed=5).batch(7, 6).images)


def test_every_pair_of_the_stream_is_a_true_one():
    batch = WorldPairs(seed=0).batch(0, 200)
    assert batch.truth.shape == batch.said.shape == (200, len(FACTORS))
    assert matches(batch.truth, batch.said).diagonal().all()


def test_the_curriculum_starts_with_easy_pictures():
    stream = WorldPairs(seed=0, curriculum=1000, easiest=0.1)
    marks = [stream.batch(step, 400).truth[:, MARK].float().mean() for step in (0, 500, 2000)]
    assert 4 * marks[0] < marks[1] < marks[2]


def test_the_corpus_uses_every_class_and_factor_of_the_stream():
    words = {word for text in WorldPairs(seed=0).corpus() for word in text.split()}
    for names in (CLASSES, COLORS, TEXTURES, POSITIONS, SIZES, BACKGROUNDS):
        assert {word for name in names for word in name.split()} <= words


def test_matching_knows_silence_and_ignorance():
    truth = torch.tensor([[3, 0], [4, 1], [3, UNKNOWN]])
    said = torch.tensor([[3, SILENT], [3, 0], [SILENT, 1], [SILENT, SILENT], [UNKNOWN, 0]])
    assert matches(truth, said).tolist() == [
        [True, True, False, True, False],
        [False, False, True, True, False],
        [True, False, False, True, False],
    ]


def test_step_generators_differ_by_seed_and_step():
    draws = {torch.rand(1, generator=step_generator(seed, step)).item() for seed in range(4) for step in range(50)}
    assert len(draws) == 200
