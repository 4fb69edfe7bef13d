"""Pictures of plain colors, and a model with a shortcut that is known."""

import pytest
import torch
import torch.nn.functional as F

from .shortcut import Shortcut


@pytest.fixture
def planted(model):
    return Shortcut(model.clip, model.tokenizer, model.mean, model.std, "planted")


@pytest.fixture
def pixels():
    """Patches of plain colors."""
    colors = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    return F.interpolate(colors, scale_factor=8)
