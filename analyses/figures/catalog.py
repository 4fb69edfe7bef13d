"""All figures and tables that ``clip-decomp figures`` draws, in the order of its page."""

from __future__ import annotations

from collections.abc import Sequence

from clip_decomp.errors import SettingError, nearest

from . import (
    cbpt,
    cbpt_features,
    closer_look,
    closer_look_choices,
    closer_look_defenses,
    closer_look_detection,
    closer_look_texts,
    rvpt,
    rvpt_costs,
    rvpt_features,
    rvpt_sweeps,
)
from .items import Item

_PARTS = (
    closer_look,
    closer_look_texts,
    closer_look_defenses,
    closer_look_choices,
    closer_look_detection,
    rvpt_features,
    rvpt_sweeps,
    rvpt,
    rvpt_costs,
    cbpt_features,
    cbpt,
)
_PAPERS = ("closer-look", "rvpt", "cbpt")


def _order(item: Item) -> tuple[int, str, int]:
    """Paper by paper, figures before tables, by number."""
    paper, _, place = item.name.rpartition("-")
    return _PAPERS.index(paper), place[0], int(place[1:])


ITEMS: tuple[Item, ...] = tuple(sorted((item for part in _PARTS for item in part.ITEMS), key=_order))


def chosen(names: Sequence[str]) -> list[Item]:
    """Items by name, all without any.

    Raises:
        SettingError: a name that no figure has.

    Example:
        >>> [item.name for item in chosen(["closer-look-t2"])]
        ['closer-look-t2']
    """
    known = {item.name: item for item in ITEMS}
    for name in names:
        if name not in known:
            raise SettingError(f"There is no figure {name!r}; did you mean one of {nearest(name, list(known))}?")
    return [known[name] for name in names] if names else list(ITEMS)
