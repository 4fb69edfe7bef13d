"""The general pool: about 3,500 descriptions of images, generated from the word lists.

Each property is a few groups of words with phrase patterns that fit all words of the group
(see :mod:`clip_decomp.texts.grammar`). The pool is the same in every run and takes about ten milliseconds.

Limits: English; everyday things and places rather than any one domain; a word with two meanings (*bat*, *seal*) is used
as in its property and may be read otherwise by a model. For another domain, write a file of lines.

Example:
    >>> pool = text_pool()
    >>> pool.properties[0], pool.texts[0]
    ('color', 'Something red')
"""

from __future__ import annotations

from .pool import TextPool
from .words.layout import LAYOUT
from .words.living import LIVING
from .words.looks import LOOKS
from .words.people import PEOPLE
from .words.pictures import PICTURES
from .words.places import PLACES
from .words.things import THINGS

_THEMES = (LOOKS, LAYOUT, PICTURES, LIVING, THINGS, PEOPLE, PLACES)


def text_pool() -> TextPool:
    """The project's own candidate texts, organized by property."""
    rows = [
        (name, text)
        for theme in _THEMES
        for name, groups in theme.items()
        for group in groups
        for text in group.texts()
    ]
    return TextPool(tuple(text for _, text in rows), tuple(name for name, _ in rows))
