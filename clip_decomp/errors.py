"""The project's exceptions. Every message names the value or file at fault and says what to do."""

from __future__ import annotations


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
