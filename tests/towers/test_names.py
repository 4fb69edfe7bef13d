"""Every model that open_clip lists: which family it is in, and that its parts add up to what the original computes."""

from collections import Counter
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn

from clip_decomp.decompose import decompose
from clip_decomp.errors import ModelError
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.models.hooking import hook
from clip_decomp.models.partless import PartlessTower

from .families import COUNTS, family
from .shrinking import shrunk

NAMES = open_clip.list_models()
FOUND: dict[str, str] = {}


def error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def encoded(visual: nn.Module, images: Tensor) -> Tensor:
    """As ``encode_image`` does: CoCa's towers give tokens as well."""
    found = visual(images)
    return found[0] if isinstance(found, tuple) else found


def blocks_of(visual: Any) -> list[nn.Module]:
    return list(visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks)


def pictures(tower: HookedViT, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *tower.parts.image_size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_contributions_add_up_to_the_originals_output(name):
    visual = shrunk(name)
    FOUND[name] = family(name, visual)
    tower = hook(visual)
    if isinstance(tower, PartlessTower):
        with pytest.raises(ModelError, match="work; for"):
            decompose(tower, torch.zeros(1, 3, 8, 8))
        return
    images = pictures(tower)
    streams = []
    handles = [each.register_forward_hook(lambda m, args, out: streams.append(out)) for each in blocks_of(visual)]
    expected = encoded(visual, images)
    for handle in handles:
        handle.remove()
    assert expected.std() > 1e-2
    _, cache = tower.run_with_cache(images, names_filter=lambda point: point.endswith("hook_resid_post"))
    for layer, stream in enumerate(streams):
        assert error(cache[f"blocks.{layer}.hook_resid_post"], stream) < 1e-5
    dec = decompose(tower, images)
    assert error(tower(images), expected) < 1e-5
    assert error(dec.sum(), expected) < 1e-5
    if dec.pool_heads is not None:
        assert dec.pool_heads.shape[1] == tower.readout.rows
        rest = dec.bias if dec.pool_mlp is None else dec.bias + dec.pool_mlp
        assert error(dec.pool_heads.sum(1) + rest, expected) < 1e-5


def test_every_name_is_in_one_family():
    found = {name: FOUND[name] if name in FOUND else family(name, shrunk(name)) for name in NAMES}
    assert len(NAMES) == 144
    assert Counter(found.values()) == COUNTS


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_contributions_add_up_at_full_width(name):
    visual = shrunk(name, layers=2, d_head=None, grid=None)
    tower = hook(visual)
    if isinstance(tower, PartlessTower):
        pytest.skip("has no parts")
    images = pictures(tower, 1)
    assert tower.image_size == tower.parts.image_size[1]
    assert error(decompose(tower, images).sum(), encoded(visual, images)) < 1e-5
