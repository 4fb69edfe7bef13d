"""The world's data sets."""

from dataclasses import replace

import pytest
import torch

from clip_decomp.data.world.draw import draw
from clip_decomp.data.world.scenes import CLASSES, FACTORS
from clip_decomp.data.world.sets import RECIPES, world_scenes, world_set, world_split
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError

CLASS = FACTORS.index("class")


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


def test_large_sets_are_drawn_in_chunks_with_noise_of_their_own(rows):
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
