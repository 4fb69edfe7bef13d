"""Word lists and phrase patterns to texts: articles, plurals, and the rotation that spreads patterns over words.

A pattern holds one of these fields, which the word fills: ``{w}`` the word itself, ``{a}`` the word with its indefinite
article, ``{s}`` its plural. Word k gets ``each`` patterns, starting where word k-1 stopped, so that every pattern is
used and no two neighboring words sound alike. Nothing is random.

Limits: English nouns of the word lists, not English. A plural that the rules would get wrong is written behind a slash
(``goose/geese``).

Example:
    >>> Group("owl, goose/geese", "{a} at rest; a photo of {s}", each=1).texts()
    ['An owl at rest', 'A photo of geese']
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Vowel letters that sound like consonants: *a unicorn*, *a European*, *a one-way street*.
_CONSONANT = re.compile(r"(uni(?!n|m)|us[aeiu]|uku|ufo|ura|uten|uti|eu|ewe|one\b|once\b)", re.IGNORECASE)
_SILENT_H = re.compile(r"(hour|hono|honest|heir)", re.IGNORECASE)
#: Letters said one by one: *an X-ray*, *an LED*, but *a UFO*.
_SPELLED = re.compile(r"[A-Z](?=[A-Z]|\b)")


def article(noun: str) -> str:
    """``noun`` with its indefinite article.

    Example:
        >>> [article(noun) for noun in ("owl", "hourglass", "uniform", "X-ray", "key")]
        ['an owl', 'an hourglass', 'a uniform', 'an X-ray', 'a key']
    """
    if _SPELLED.match(noun):
        vowel = noun[0] in "AEFHILMNORSX"
    elif noun[0].lower() in "aeiou":
        vowel = not _CONSONANT.match(noun)
    else:
        vowel = bool(_SILENT_H.match(noun))
    return f"{'an' if vowel else 'a'} {noun}"


def plural(noun: str) -> str:
    """The regular plural of ``noun``; its last word is the one that changes.

    Example:
        >>> [plural(noun) for noun in ("owl", "fox", "berry", "key", "church")]
        ['owls', 'foxes', 'berries', 'keys', 'churches']
    """
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


@dataclass(frozen=True)
class Group:
    """Words that fit the same patterns.

    Attributes:
        words: separated by commas; an irregular plural stands behind a slash.
        patterns: separated by semicolons.
        each: how many patterns a word gets; all of them by default, fewer to keep a group small.
    """

    words: str
    patterns: str = "{w}"
    each: int | None = None

    def texts(self) -> list[str]:
        """One text a word and pattern, each with a capital first letter."""
        patterns = _split(self.patterns, ";")
        each = len(patterns) if self.each is None else self.each
        texts, turn = [], 0
        for word in _split(self.words, ","):
            one, _, many = word.partition("/")
            for _ in range(each):
                pattern = patterns[turn % len(patterns)]
                text = pattern.format(w=one, a=article(one), s=many or plural(one))
                texts.append(text[0].upper() + text[1:])
                turn += 1
        return texts


def crossed(first: str, second: str) -> str:
    """Every word of ``first`` before every word of ``second``, as a word list.

    Example:
        >>> crossed("two, ten", "birds, cups")
        'two birds, two cups, ten birds, ten cups'
    """
    return ", ".join(f"{a} {b}" for a in _split(first, ",") for b in _split(second, ","))


def paired(first: str, second: str) -> str:
    """Word k of ``first`` before word k of ``second``, the shorter list repeated: a thin sample of :func:`crossed`.

    Example:
        >>> paired("two, ten, nine", "birds, cups")
        'two birds, ten cups, nine birds'
    """
    a, b = _split(first, ","), _split(second, ",")
    return ", ".join(f"{a[k % len(a)]} {b[k % len(b)]}" for k in range(max(len(a), len(b))))


def _split(text: str, separator: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split(separator) if part.strip()]
