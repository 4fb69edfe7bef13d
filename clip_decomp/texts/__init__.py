"""Candidate texts for TEXTSPAN: the project's own pool, a pool of the embedded world, and any file of lines.

Every text has one property (``color``, ``material``, ``scene``, ...), so that a table of what a head speaks of can be
read by property. The general pool is generated when it is asked for, from the word lists in
:mod:`clip_decomp.texts.words`; nothing is shipped as data and nothing is random.

Example:
    >>> pool = text_pool()
    >>> pool.of("pattern").texts[:2]
    ('A striped pattern', 'Something with a striped design')
"""

from __future__ import annotations

from .encode import encode_pool
from .general import text_pool
from .pool import TextPool, read_pool
from .world import world_pool

__all__ = ["TextPool", "default_pool", "encode_pool", "read_pool", "text_pool", "world_pool"]


def default_pool(data_name: str) -> TextPool:
    """The pool for a data set: the embedded world's own texts for its pictures, the general ones for all others."""
    return world_pool() if data_name.split(":")[0] == "world" else text_pool()
