"""The project's exceptions. Every message names the value or file at fault and says what to do."""

from __future__ import annotations

from collections.abc import Sequence


class ClipDecompError(Exception):
    """Base of all errors a user can cause; the command line prints its message on one line."""


class DataError(ClipDecompError, ValueError):
    """A data set, image or label that cannot be used."""


class ModelError(ClipDecompError, ValueError):
    """A model or checkpoint that cannot be used."""


class SettingError(ClipDecompError, ValueError):
    """A setting out of range."""


class AttackFailed(ClipDecompError, RuntimeError):
    """An attack whose undefended success rate is too low to evaluate a defense on."""


class TrainingFailed(ClipDecompError, RuntimeError):
    """Training that cannot go on."""


def nearest(name: str, names: Sequence[str]) -> list[str]:
    """Up to three similar names, or the first five where none is similar; for messages about a misspelt one."""
    from difflib import get_close_matches

    return get_close_matches(name, names, n=3) or list(names[:5])


def class_place(name: str, names: Sequence[str], whose: str) -> int:
    """Place of a class among names.

    Args:
        whose: begins the message, such as ``world: ``.

    Raises:
        DataError: there is no such class; the message lists similar names.

    Example:
        >>> class_place("pear", ["apple", "pear"], "fruit: ")
        1
    """
    if name not in names:
        raise DataError(f"{whose}there is no class {name!r}; did you mean one of {nearest(name, names)}?")
    return list(names).index(name)
