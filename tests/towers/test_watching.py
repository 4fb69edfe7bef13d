"""Defenses that watch activity, on towers of every kind."""

import pytest
import torch

from clip_decomp.decompose import observe
from clip_decomp.errors import ModelError
from defenses.deviation import Deviation
from defenses.evidence import evidence
from defenses.prefix import Prefix, class_tokens

from .test_names import error, pictures
from .test_use import KINDS, HookedCLIP, TowerOnly, shrunk


@pytest.fixture(scope="module", params=["average, then norm", "norms inside, gated, rotary", "norms behind", "siglip"])
def model(request) -> HookedCLIP:
    clip = TowerOnly(shrunk(KINDS[request.param])).eval().requires_grad_(False)
    return HookedCLIP(clip, lambda texts: torch.zeros(len(texts), 1), (0.5,) * 3, (0.5,) * 3, name=request.param)


@torch.no_grad()
def test_observing_is_one_graph(model):
    images = pictures(model.visual)
    expected = observe(model.visual, images)
    found = torch.compile(lambda x: observe(model.visual, x), fullgraph=True, backend="eager")(images)
    assert error(found.z, expected.z) < 1e-6
    assert error(found.mlps, expected.mlps) < 1e-6


@torch.no_grad()
def test_shares_of_patches_add_up_to_the_distance(model):
    tower, images = model.visual, pictures(model.visual, 40)
    deviation = Deviation.fit(observe(tower, images))
    (found,) = evidence(model, deviation, images[:1], torch.tensor([True]), 2).values()
    spread, z = deviation.heads, observe(tower, images[:1]).z
    assert found.heads[0].tokens.shape == (3, 3)
    if tower.n_prefix:
        return  # its share is left out
    for each in found.heads:
        mean = spread.mean[each.layer, each.head]
        direction = spread.precision[each.layer, each.head] @ (z[0, each.layer, each.head] - mean)
        distance = (z[0, each.layer, each.head] - mean) @ direction
        assert error(each.tokens.sum() - mean @ direction, distance) < 1e-3


@torch.no_grad()
def test_the_frozen_prefix_goes_on_where_it_ended(model):
    tower, images = model.visual, pictures(model.visual)
    if tower.readout.rows > 1:
        with pytest.raises(ModelError, match="reads by an attention pool, so no single token"):
            Prefix.of(tower, images, 1)
        return
    kept = Prefix.of(tower, images, 1)
    features, tokens = class_tokens(tower, kept.residual, 1)
    assert error(features, tower(images)) < 1e-5
    assert error(tokens, kept.targets) < 1e-5
