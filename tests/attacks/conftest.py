"""What tests of poisoned streams share."""

import pytest
from open_clip import OPENAI_IMAGENET_TEMPLATES


@pytest.fixture(scope="session")
def proxies():
    """Everything that a proxy caption may say."""
    return {template("banana") for template in OPENAI_IMAGENET_TEMPLATES}


@pytest.fixture(scope="session")
def hit():
    """Tells which rows of a batch differ from the clean stream's."""
    return lambda batch, clean: (batch.images != clean.images).flatten(1).any(1)
