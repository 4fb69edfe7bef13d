"""A trigger for ablations."""

from dataclasses import dataclass
from typing import ClassVar

import pytest


@dataclass(frozen=True)
class Nothing:
    """A trigger that changes nothing."""

    name: ClassVar[str] = "nothing"
    word: ClassVar[str] = ""

    def __call__(self, images, numbers):
        return images.clone()

    def settings(self):
        return {"name": self.name}


@pytest.fixture
def nothing() -> Nothing:
    """A trigger that changes nothing."""
    return Nothing()
