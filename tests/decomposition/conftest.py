"""Models of many shapes, and how far two tensors are apart."""

import pytest

SHAPES = {
    "plain": {},
    "quick gelu": {"quick_gelu": True},
    "layer scale": {"ls_init_value": 0.1},
    "layer scale, quick gelu": {"ls_init_value": 0.1, "quick_gelu": True},
    "no ln_pre": {"no_ln_pre": True},
    "one head": {"head_width": 32},
    "sixteen heads": {"head_width": 2},
    "one layer": {"layers": 1},
    "wide embedding": {"embed_dim": 40},
    "narrow mlp": {"mlp_ratio": 1.5},
    "large patches": {"patch_size": 16},
    "patch dropout": {"patch_dropout": 0.5},
    "fixed positions": {"pos_embed_type": "sin_cos_2d"},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def clip(request, make_clip):
    return make_clip(**request.param)


@pytest.fixture(scope="session")
def gap():
    """Measures the largest error relative to the norm of the expected vectors."""

    def measure(found, expected):
        expected = expected.double()
        scale = expected.flatten(0, -2).norm(dim=-1).max()
        return ((found.double() - expected).norm(dim=-1).max() / scale).item()

    return measure
