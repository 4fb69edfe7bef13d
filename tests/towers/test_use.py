"""What is done with towers of every kind: prompts, tokens, maps, neurons, hooks, half precision; what is refused."""

import copy

import pytest
import torch
from torch import Tensor

from clip_decomp.decompose import decompose, observe
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.methods.attention import attention_maps, relevance, split_tokens
from clip_decomp.methods.gradcam import gradcam
from clip_decomp.methods.neurons import neurons
from clip_decomp.methods.patterns import attention_between, rollout
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.prompts import DeepVisualPrompts

from .shrinking import shrunk
from .test_names import encoded, error, pictures

#: One of every kind.
KINDS = {
    "class token": "ViT-B-32",
    "quick gelu": "ViT-B-16-quickgelu",
    "layer scale": "ViT-M-16-alt",
    "average, then norm": "ViT-L-14-CLIPA",
    "coca": "coca_ViT-B-32",
    "eva01": "EVA01-g-14",
    "norms inside, gated, rotary": "EVA02-B-16",
    "norms behind": "EVA02-E-14",
    "mobile": "MobileCLIP2-L-14",
    "norm, then average": "vit_medium_patch16_gap_256",
    "relative positions": "vit_relpos_medium_patch16_cls_224",
    "siglip": "ViT-B-16-SigLIP",
    "pe": "PE-Core-T-16-384",
    "pe without class token": "PE-Core-bigG-14-448",
}


class TowerOnly(torch.nn.Module):
    """A CLIP without texts."""

    def __init__(self, visual: torch.nn.Module):
        super().__init__()
        self.visual = visual
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def model(request) -> HookedCLIP:
    clip = TowerOnly(shrunk(request.param)).eval().requires_grad_(False)
    return HookedCLIP(clip, lambda texts: torch.zeros(len(texts), 1), (0.5,) * 3, (0.5,) * 3, name=request.param)


@pytest.fixture
def images(model) -> Tensor:
    return pictures(model.visual)


def texts_for(tower: HookedViT) -> Tensor:
    return torch.randn(3, tower.d_embed, generator=torch.Generator().manual_seed(4))


def check_sum(tower: HookedViT, images: Tensor, tokens: int) -> None:
    dec, expected, texts = decompose(tower, images, tokens=True), tower(images), texts_for(tower)
    assert error(dec.sum(), expected) < 1e-5
    assert dec.attention.shape[-1] == tokens
    assert error(dec.attention.sum(-1), torch.ones(dec.attention.shape[:-1])) < 1e-5
    for layer in range(2):
        assert error(dec.tokens(layer, 1).sum(1), dec.heads[:, layer, 1]) < 1e-4
    assert error(dec.token_map(texts).sum(3), dec.toward(texts)) < 1e-4
    assert error(dec.toward(texts), dec.heads @ texts.T) < 1e-5
    assert error(torch.einsum("blhr,lhre->blhe", dec.coordinates(), dec.head_basis), dec.heads) < 1e-5


@torch.no_grad()
def test_tokens_and_texts_add_up(model, images):
    check_sum(model.visual, images, model.visual.parts.n_tokens)


@torch.no_grad()
def test_prompts_are_on_the_token_axis_and_in_the_sum(model, images):
    tower, prompts = model.visual, DeepVisualPrompts(model, 4, [0, 1])
    prompts.prompts.data.mul_(50)
    before = tower(images)
    check_sum(prompts.on(model).visual, images, tower.parts.n_tokens + 4)
    prompted = prompts.on(model).encode_image(images)
    assert error(prompted, before) > 1e-3
    assert error(prompts.on(model, keys=True).encode_image(images), prompted) < 1e-5
    check_sum(prompts.on(model, keys=True).visual, images, tower.parts.n_tokens + 4)
    only_last = DeepVisualPrompts(model, 4, [1])
    check_sum(only_last.on(model).visual, images, tower.parts.n_tokens + 4)
    assert torch.equal(tower(images), before)


@torch.no_grad()
def test_patterns_and_every_other_hook_reproduce_the_output(model, images):
    tower = model.visual
    output, cache = tower.run_with_cache(images)
    assert error(output, encoded(tower.tower, images)) < 1e-5
    assert set(cache.keys()) == {name for name in tower.hook_dict if name in cache}
    for name in tower.hook_dict:
        if name.endswith("hook_pattern"):
            assert error(cache[name].sum(-1), torch.ones(cache[name].shape[:-1])) < 1e-5
    silent = {name for name in tower.hook_dict if name not in cache}
    assert all(name.endswith("hook_scale") for name in silent), silent  # norms that a tower does not have
    pattern, values = cache["blocks.0.attn.hook_pattern"], cache["blocks.0.attn.hook_v"]
    assert error(torch.einsum("bhqk,bkhd->bqhd", pattern, values), cache["blocks.0.attn.hook_z"]) < 1e-5


@torch.no_grad()
def test_edits_of_heads_and_mlps_stay_in_the_sum(model, images):
    tower = model.visual
    hooks = [("blocks.0.attn.hook_z", lambda z, hook: z * 1.7), ("blocks.1.hook_mlp_out", lambda out, hook: out * 0.3)]
    before = tower(images)
    with tower.hooks(fwd_hooks=hooks):
        edited = tower(images)
        assert error(decompose(tower, images).sum(), edited) < 1e-5
    assert error(edited, before) > 1e-3


@torch.no_grad()
def test_attention_maps_and_rollout(model, images):
    tower, dec = model.visual, model.decompose(images, tokens=True)
    maps = attention_maps(dec, tower.grid)
    assert maps.shape[-2:] == (3, 3)
    assert relevance(dec, texts_for(tower), tower.grid).shape == (2, 3, 3, 3)
    rolled = rollout(model, images)
    assert error(rolled.sum(1), torch.ones(2)) < 1e-5
    assert rolled.shape == (2, tower.parts.n_tokens)
    between = attention_between(model, images)
    assert between.groups == (("class token",) if tower.n_prefix else ()) + ("patches",)
    assert error(between.values.sum(-1), torch.ones(between.values.shape[:-1])) < 1e-5
    rows = dec.attention if dec.attention.ndim == 4 else dec.attention.mean(3)
    shares = split_tokens(rows, tower.grid, tower.n_prefix)
    assert error(shares.class_token + shares.patches + shares.prompts, torch.ones(2, 2, tower.n_heads)) < 1e-5
    if dec.attention.ndim == 5:
        with pytest.raises(SettingError, match="choose one pool head"):
            split_tokens(dec.attention, tower.grid, tower.n_prefix)


def test_gradcam_runs(model, images):
    assert gradcam(model, images, texts_for(model.visual)).maps.shape == (2, 3, 3, 3)


@torch.no_grad()
def test_neurons_add_up_or_are_refused(model, images):
    if model.visual.readout.rows > 1:
        with pytest.raises(ModelError, match="attention pool: there is no single matrix"):
            neurons(model, images, 1)
        return
    assert error(neurons(model, images, 1).sum(), model.decompose(images).mlps[:, 1]) < 1e-5


@torch.no_grad()
def test_the_papers_convention_adds_up_or_is_refused(model, images):
    if model.visual.readout.reader.deferred:
        with pytest.raises(ModelError, match="convention='paper' spreads one mean an image"):
            model.decompose(images, convention="paper")
        return
    dec = model.decompose(images, convention="paper")
    assert torch.count_nonzero(dec.bias) == 0
    assert error(dec.sum(), torch.nn.functional.normalize(model.encode_image(images), dim=-1)) < 1e-5
    assert error(torch.einsum("blhr,lhre->blhe", dec.coordinates(), dec.head_basis), dec.heads) < 1e-5


@torch.no_grad()
def test_double_precision_is_kept(model, images):
    visual = copy.deepcopy(model.visual.tower).double()
    dec = decompose(HookedViT(visual), images.double())
    assert dec.sum().dtype == torch.float64
    assert error(dec.sum(), encoded(visual, images.double())) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_as_close_as_the_originals_rounding(dtype, model, images):
    half = copy.deepcopy(model.visual.tower).to(dtype)
    exact = encoded(copy.deepcopy(half).double(), images.to(dtype).double())
    rounding = error(encoded(half, images.to(dtype)), exact)
    tower = HookedViT(half)
    assert error(tower(images), exact) < 1.5 * rounding + 1e-4
    dec = decompose(tower, images)
    assert dec.sum().dtype == torch.float32
    assert error(dec.sum(), exact) < 1.5 * rounding + 1e-4


@torch.no_grad()
def test_observing_leaves_nothing_behind_and_follows_the_weights(model, images):
    tower, first = model.visual, observe(model.visual, images)
    assert torch.equal(first.features, tower(images))
    assert first.z.shape == (2, 2, tower.n_heads, tower.blocks[0].attn.d_head)
    assert first.mlps.shape == (2, 2, tower.d_embed)
    before = decompose(tower, images).heads
    weight = tower.blocks[1].attn.parts.out.weight
    weight.mul_(2)
    after = decompose(tower, images)
    assert error(after.sum(), encoded(tower.tower, images)) < 1e-5
    weight.div_(2)
    assert torch.equal(decompose(tower, images).heads, before)
