"""Sampling scenes: what they depend on, and the range of their factors."""

import pytest
import torch

from clip_decomp.data.world.scenes import BACKGROUNDS, COLORS, FACTORS, MAX_MARKS, POSITIONS, SIZES, TEXTURES, Style

CLASS, MARK = FACTORS.index("class"), FACTORS.index("marks")


def test_scenes_depend_on_the_generator_alone(scenes, same):
    torch.manual_seed(1)
    first = scenes()
    torch.manual_seed(2)
    assert same(first, scenes())
    assert not torch.equal(first.factors, scenes(seed=1).factors)


def test_factors_stay_in_range_and_all_occur(scenes):
    factors = scenes(4000, style=Style(difficulty=1.0)).factors
    counts = (66, len(COLORS), len(TEXTURES), len(POSITIONS), len(SIZES), len(BACKGROUNDS), MAX_MARKS + 1)
    for column, count in enumerate(counts):
        assert factors[:, column].unique().tolist() == list(range(count)), FACTORS[column]


def test_classes_are_uniform_over_those_asked_for(scenes):
    found = scenes(3000, classes=torch.tensor([5, 9, 60])).factors[:, CLASS].bincount(minlength=66)
    assert found.nonzero()[:, 0].tolist() == [5, 9, 60]
    assert found[[5, 9, 60]].min() > 900


def test_difficulty_can_be_given_for_each_scene(scenes):
    hard = torch.cat([torch.zeros(500), torch.ones(500)])
    batch = scenes(1000, difficulty=hard)
    assert batch.noise[:500].max() == 0
    assert batch.noise[500:].mean() > 0.02
    assert batch.contrast[:500].min() == 1
    assert batch.factors[:500, MARK].max() == 0
    assert batch.angle[500:].abs().max() > 3 * batch.angle[:500].abs().max()


def test_what_cannot_be_sampled_is_refused(scenes):
    with pytest.raises(ValueError, match="name at least one class"):
        scenes(3, classes=torch.tensor([], dtype=torch.long))
    with pytest.raises(ValueError, match="Cannot sample -1 scenes"):
        scenes(-1)
