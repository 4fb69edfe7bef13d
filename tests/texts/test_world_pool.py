from collections import Counter

import pytest

import clip_decomp
from clip_decomp.data.world import captions
from clip_decomp.data.world.scenes import FACTORS
from clip_decomp.texts import world_pool
from clip_decomp.texts.world import _VALUES


@pytest.fixture(scope="module")
def tokenizer():
    return clip_decomp.load("world/clean").tokenizer


@pytest.fixture(scope="module")
def pool():
    return world_pool()


def test_every_text_is_a_caption_about_its_factor_alone(pool):
    for place, factor in enumerate(FACTORS):
        told = [k == place for k in range(len(FACTORS))]
        sayings = {
            captions._sentence([value if k == place else 0 for k in range(len(FACTORS))], told, opening, noun)
            for value in range(len(_VALUES[factor]))
            for opening in captions.OPENINGS
            for noun in captions._ANYTHING
        }
        assert set(pool.of(factor).texts) <= sayings


def test_every_value_is_said_as_often_as_the_others(pool):
    assert pool.property_names == FACTORS
    assert Counter(pool.properties) == {
        factor: len(_VALUES[factor]) * (3 if factor == "class" else 6) for factor in FACTORS
    }
    for color in _VALUES["color"]:
        assert sum(f" {color} " in f" {text} " for text in pool.of("color").texts) == 6


def test_the_models_know_the_words(pool, tokenizer):
    words = {word for text in pool.texts for word in text.split()}
    split = {word for word in words if len(tokenizer.tokenizer.encode(word).ids) > 1}
    # Rare in the captions that the vocabulary was learned from.
    assert split == {"three", "four"}
    assert (tokenizer(list(pool.texts)) == tokenizer.end).any(1).all()
    assert max(len(each.ids) for each in tokenizer.tokenizer.encode_batch(list(pool.texts))) <= 30
