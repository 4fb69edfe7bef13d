"""Readouts of open_clip's own towers: pooled before and behind the norm, and by attention."""

import pytest
import torch

from clip_decomp.decompose import decompose, observe
from clip_decomp.errors import ModelError
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.models.recording import Record

READOUTS = {
    "class token": {},
    "average, then norm": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "norm, then average": {"pool_type": "avg", "ls_init_value": 0.1},
    "attention pool": {
        "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5, "output_tokens": True,
    },
    "attention pool, one width": {
        "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5, "output_tokens": True, "width": 24,
        "head_width": 12,
    },
}  # fmt: skip


@pytest.fixture(params=READOUTS.values(), ids=READOUTS.keys())
def visual(request, make_clip):
    torch.manual_seed(5)
    return make_clip(**request.param).visual


def features(visual, images):
    found = visual(images)
    return found[0] if isinstance(found, tuple) else found


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@torch.no_grad()
def test_contributions_add_up_to_the_original_towers_output(visual, images):
    tower = HookedViT(visual)
    expected = features(visual, images)
    assert error(tower(images), expected) < 1e-6
    dec = decompose(tower, images, tokens=True)
    assert error(dec.sum(), expected) < 1e-5
    assert error(dec.heads.sum(2), dec.attentions) < 1e-5
    for layer in range(3):
        for head in range(tower.n_heads):
            assert error(dec.tokens(layer, head).sum(1), dec.heads[:, layer, head]) < 1e-5
    texts = torch.randn(4, 24)
    assert error(dec.toward(texts), dec.heads @ texts.T) < 1e-5
    assert error(dec.token_map(texts).sum(3), dec.toward(texts)) < 1e-5
    basis = dec.head_basis
    assert error(torch.einsum("blhr,lhre->blhe", dec.coordinates(basis), basis), dec.heads) < 1e-5
    assert error(dec.attention.sum(-1), torch.ones(dec.attention.shape[:-1])) < 1e-5


@torch.no_grad()
def test_pool_heads_are_a_view_of_the_same_sum(visual, images):
    dec = decompose(HookedViT(visual), images)
    if HookedViT(visual).readout.rows == 1:
        assert dec.pool_heads is None
        return
    assert error(dec.pool_heads.sum(1), dec.sum() - dec.bias) < 1e-5
    assert dec.attention.shape == (3, 3, HookedViT(visual).n_heads, 4, 17)


@torch.no_grad()
def test_hooked_patterns_reproduce_the_output_and_the_rows(visual, images):
    tower = HookedViT(visual)
    output, cache = tower.run_with_cache(images)
    assert error(output, features(visual, images)) < 1e-5
    plain = decompose(tower, images, tokens=True)
    with tower.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", lambda x, hook: x) for layer in range(3)]):
        hooked = decompose(tower, images, tokens=True)
    assert error(hooked.attention, plain.attention) < 1e-5
    assert error(hooked.tokens(1, 1), plain.tokens(1, 1)) < 1e-5
    pattern = cache["blocks.1.attn.hook_pattern"]
    assert error(pattern.sum(-1), torch.ones(pattern.shape[:-1])) < 1e-6


@torch.no_grad()
def test_observing_is_the_decompositions_activity(visual, images):
    tower = HookedViT(visual)
    seen, dec = observe(tower, images), decompose(tower, images)
    assert torch.equal(seen.features, tower(images))
    assert error(seen.z, dec.z if dec.z.ndim == 4 else dec.z.mean(3)) < 1e-6
    assert seen.mlps.shape == dec.mlps.shape


@torch.no_grad()
def test_the_papers_convention_is_exact_in_sum_or_refused(visual, images):
    tower = HookedViT(visual)
    if tower.readout.reader.deferred:
        with pytest.raises(ModelError, match="use convention='exact'"):
            decompose(tower, images, convention_name="paper")
        return
    dec = decompose(tower, images, convention_name="paper")
    assert torch.count_nonzero(dec.bias) == 0
    assert error(dec.sum(), torch.nn.functional.normalize(features(visual, images), dim=-1)) < 1e-5


@torch.no_grad()
def test_editing_on_the_way_needs_a_class_token(visual, images):
    tower = HookedViT(visual)
    record = Record(edit_z=lambda layer, z: z * 0)
    if tower.reads_class_token:
        assert error(tower(images, record), tower(images)) > 1e-3
    else:
        with pytest.raises(ModelError, match=r"this tower reads by .*take a model that reads its class token"):
            tower(images, record)
