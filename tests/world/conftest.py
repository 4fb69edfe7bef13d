"""Scenes of the drawn world, and what tests do with them."""

from dataclasses import replace

import pytest
import torch

from clip_decomp.data.world.scenes import CLASSES, Style, sample_scenes

ALL = torch.arange(len(CLASSES))
PLAIN_STYLE = Style()


@pytest.fixture(scope="session")
def generator():
    """A generator of a given seed."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def scenes(generator):
    """Samples scenes of a given seed."""

    def sample(n=64, seed=0, style=PLAIN_STYLE, classes=ALL, **kwargs):
        return sample_scenes(n, generator(seed), classes, style, **kwargs)

    return sample


@pytest.fixture(scope="session")
def rows():
    """Takes some scenes of a batch."""

    def take(batch, chosen):
        tensors = {name: value[chosen] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
        return replace(batch, **tensors)

    return take


@pytest.fixture(scope="session")
def same():
    """Says whether two batches hold the same scenes."""

    def compare(a, b):
        return all(
            torch.equal(value, getattr(b, name)) if isinstance(value, torch.Tensor) else value == getattr(b, name)
            for name, value in vars(a).items()
        )

    return compare
