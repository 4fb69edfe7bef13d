"""Captions say true things about their scenes."""

import re

import pytest

from clip_decomp.data.pairs import SILENT, matches
from clip_decomp.data.world.captions import COUNTS, article, write_captions
from clip_decomp.data.world.scenes import BACKGROUNDS, CLASSES, COLORS, FACTORS, POSITIONS, SIZES, TEXTURES, Style

CLASS, COLOR, TEXTURE, POSITION, SIZE, BACKGROUND, MARK = range(len(FACTORS))


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


def test_captions_state_true_facts_and_only_those_they_list(scenes, generator):
    batch = scenes(3000, style=Style(1.0))
    texts, said = write_captions(batch, generator(1))
    assert matches(batch.factors, said).diagonal().all()
    for text, facts in zip(texts, said.tolist(), strict=True):
        assert claims(text) == facts, text


def test_captions_are_silent_often_but_never_about_everything(scenes, generator):
    batch = scenes(4000)
    _, said = write_captions(batch, generator(1), class_only=0.4)
    told = said != SILENT
    assert told.any(1).all()
    only = told[:, CLASS] & (told.sum(1) == 1)
    assert 0.4 < only.float().mean() < 0.55
    _, said = write_captions(batch, generator(1), class_only=1.0)
    assert ((said != SILENT).sum(1) == 1).all()
    assert (said[:, CLASS] != SILENT).all()


def test_captions_depend_on_the_generator_alone(scenes, generator):
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
