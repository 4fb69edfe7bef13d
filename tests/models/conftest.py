"""A tiny architecture that open_clip knows by name, and a model of it."""

import open_clip
import pytest
import torch

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture
def arch(monkeypatch) -> str:
    """The name under which open_clip knows a tiny architecture."""
    name = "tiny-for-tests"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, CONFIG)
    return name


@pytest.fixture
def named(arch, randomize):
    """A model of the tiny architecture."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return randomize(open_clip.create_model(arch))


@pytest.fixture
def state(named):
    return {key: value.clone() for key, value in named.state_dict().items()}


@pytest.fixture
def picture():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def same_features():
    """Says whether two models encode a picture alike."""

    def compare(model, clip, picture):
        return torch.allclose(model.encode_image(picture), clip.encode_image(picture), rtol=1e-4, atol=1e-5)

    return compare
