import pytest

from clip_decomp.texts.grammar import Group, article, crossed, paired, plural


@pytest.mark.parametrize(
    "expected",
    [
        *(
            "an owl",
            "an hourglass",
            "an honest face",
            "an X-ray",
            "an S-shaped thing",
            "an SUV",
            "an LED",
            "an umbrella",
        ),
        *("an unusual angle", "an Uzbek house", "an uninhabited island", "an unimportant thing", "an eye", "an onion"),
        *("a key", "a horse", "a uniform", "a unicycle", "a ukulele", "a useful tool", "a European city", "a U-turn"),
        *("a one-way street", "a UFO", "a T-shirt", "a QR code", "a euro sign", "a eucalyptus", "a house"),
    ],
)
def test_articles(expected):
    assert article(expected.split(" ", 1)[1]) == expected


@pytest.mark.parametrize(
    ("noun", "many"),
    [
        *(("dog", "dogs"), ("fox", "foxes"), ("dish", "dishes"), ("beech", "beeches"), ("berry", "berries")),
        *(("boy", "boys"), ("palm tree", "palm trees"), ("glass", "glasses"), ("bus stop", "bus stops")),
    ],
)
def test_plurals(noun, many):
    assert plural(noun) == many


def test_every_word_gets_every_pattern_unless_told_otherwise():
    texts = Group("cat, mouse/mice", "{a}; many {s}; the {w}").texts()
    assert texts == ["A cat", "Many cats", "The cat", "A mouse", "Many mice", "The mouse"]


def test_patterns_go_round():
    assert Group("ant, bee, cow, dog", "{a}; {s}; the {w}", each=1).texts() == ["An ant", "Bees", "The cow", "A dog"]
    assert Group("ant, bee", "{a}; {s}; the {w}", each=2).texts() == ["An ant", "Ants", "The bee", "A bee"]


def test_capitals_inside_a_text_stay():
    assert Group("X-ray, French horn", "{a}").texts() == ["An X-ray", "A French horn"]


def test_lists_of_two():
    assert crossed("two, ten", "cups") == "two cups, ten cups"
    assert paired("two, ten", "cups, birds, cars") == "two cups, ten birds, two cars"
