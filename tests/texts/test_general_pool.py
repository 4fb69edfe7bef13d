import re
from collections import Counter

import pytest

from clip_decomp.texts import text_pool

#: Begin with a vowel letter but not with a vowel, and the other way round.
CONSONANTS = {"u-shaped", "uniform", "unicycle", "ukulele", "euro", "eucalyptus"}
VOWELS = {"x-ray", "s-shaped", "suv", "hourglass"}


@pytest.fixture(scope="module")
def pool():
    return text_pool()


def test_size_and_properties(pool):
    assert 3400 <= len(pool) <= 3600
    assert {"color", "pattern", "shape", "material", "size", "location", "count", "scene", "profession"} <= {
        *pool.property_names
    }
    assert min(Counter(pool.properties).values()) >= 30


def test_a_property_is_one_block(pool):
    changes = sum(a != b for a, b in zip(pool.properties, pool.properties[1:], strict=False))
    assert changes == len(pool.property_names) - 1


def test_texts_are_distinct_and_clean(pool):
    assert len({text.casefold() for text in pool.texts}) == len(pool)
    for text in pool.texts:
        assert text == " ".join(text.split())
        assert text[0].isupper() or text[0].isdigit()
        assert not set(text) & set("{};/_\t"), text
        assert 2 < len(text) < 80


def test_articles(pool):
    for text in pool.texts:
        for used, word in re.findall(r"\b(an?) ([\w'-]+)", re.sub(r"letter A$", "", text), re.IGNORECASE):
            word = word.lower()
            vowel = word in VOWELS or (word[0] in "aeiou" and word not in CONSONANTS)
            assert used.lower() == ("an" if vowel else "a"), text


def test_no_article_stands_before_a_plural_or_another_article(pool):
    for text in pool.texts:
        assert not re.search(r"\b(an?|the) (an?|the|one|two|many|several)\b", text, re.IGNORECASE), text
        assert not re.search(r"\ban? (people|children|men|women|scissors|trousers|glasses|cattle)\b", text), text


def test_no_word_is_said_twice_in_a_row(pool):
    assert not [text for text in pool.texts if re.search(r"\b(\w+) \1\b", text, re.IGNORECASE)]


def test_deterministic(pool):
    assert text_pool() == pool


def test_forms_vary(pool):
    openings = Counter(" ".join(text.split()[:3]) for text in pool.texts)
    assert openings.most_common(1)[0][1] < 0.15 * len(pool)
    assert len(openings) > 1000
