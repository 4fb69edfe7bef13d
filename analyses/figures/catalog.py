"""All figures and tables that ``clip-decomp figures`` draws, in the order of its page."""

from __future__ import annotations

from collections.abc import Sequence

from clip_decomp.errors import SettingError, nearest

from . import closer_look, closer_look_defenses, rvpt, rvpt_sweeps
from .items import Item

ITEMS: tuple[Item, ...] = (*closer_look.ITEMS, *closer_look_defenses.ITEMS, *rvpt.ITEMS, *rvpt_sweeps.ITEMS)


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
