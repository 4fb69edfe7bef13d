import pytest
import torch
from open_clip.model import _build_vision_tower
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.models.hooked_vit import HookedViT

N, T, L, H, D, M = 3, 17, 3, 4, 8, 32  # pictures, tokens, layers, heads, d_head, d_model

# TransformerLens's names and axis orders.
SHAPES = {
    "hook_embed": (N, T, M),
    "hook_pos_embed": (N, T, M),
    "ln_pre.hook_scale": (N, T, 1),
    "ln_pre.hook_normalized": (N, T, M),
    "ln_final.hook_scale": (N, 1, 1),
    "ln_final.hook_normalized": (N, 1, M),
}
for _layer in range(L):
    SHAPES |= {
        f"blocks.{_layer}.{name}": shape
        for name, shape in {
            "hook_resid_pre": (N, T, M),
            "ln1.hook_scale": (N, T, 1),
            "ln1.hook_normalized": (N, T, M),
            "attn.hook_q": (N, T, H, D),
            "attn.hook_k": (N, T, H, D),
            "attn.hook_v": (N, T, H, D),
            "attn.hook_attn_scores": (N, H, T, T),
            "attn.hook_pattern": (N, H, T, T),
            "attn.hook_z": (N, T, H, D),
            "attn.hook_result": (N, T, H, M),
            "hook_attn_out": (N, T, M),
            "hook_resid_mid": (N, T, M),
            "ln2.hook_scale": (N, T, 1),
            "ln2.hook_normalized": (N, T, M),
            "mlp.hook_pre": (N, T, 4 * M),
            "mlp.hook_post": (N, T, 4 * M),
            "hook_mlp_out": (N, T, M),
            "hook_resid_post": (N, T, M),
        }.items()
    }


@pytest.fixture
def tower(model):
    return model.visual


def no_hooks(tower):
    return not any(point.fwd_hooks or point.bwd_hooks or point._forward_hooks for point in tower.hook_dict.values())


def test_names_and_axes_are_transformer_lenss(tower, images):
    _, cache = tower.run_with_cache(images)
    assert {name: tuple(value.shape) for name, value in cache.items()} == SHAPES
    assert set(tower.hook_dict) == set(SHAPES)


@pytest.mark.parametrize("options", [{}, {"quick_gelu": True}, {"ls_init_value": 0.1}, {"no_ln_pre": True}])
def test_output_is_the_original_towers(options, make_clip, images):
    clip = make_clip(**options)
    tower = HookedViT(clip.visual)
    with torch.no_grad():
        torch.testing.assert_close(tower(images), clip.encode_image(images), rtol=1e-5, atol=5e-6)
        # With every hook point listened to, the explicit computations run instead of the fused ones.
        listened, _ = tower.run_with_cache(images)
        torch.testing.assert_close(listened, clip.encode_image(images), rtol=1e-4, atol=1e-5)


def test_cached_values_fit_together(make_clip, images):
    tower = HookedViT(make_clip(ls_init_value=0.1).visual)
    output, cache = tower.run_with_cache(images)
    stream = cache["hook_embed"] + cache["hook_pos_embed"]

    def close(a, b):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def norm(x, prefix):
        close(cache[f"{prefix}.hook_scale"], (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt())
        return cache[f"{prefix}.hook_normalized"]

    x = norm(stream, "ln_pre")
    for layer, block in enumerate(tower.tower.transformer.resblocks):
        part = {name: cache[f"blocks.{layer}.{name}"] for name in (n.partition(".1.")[2] for n in SHAPES) if name}
        close(part["hook_resid_pre"], x)
        q, k, v = block.attn.in_proj_weight.chunk(3)
        bias = block.attn.in_proj_bias.chunk(3)
        normed = norm(x, f"blocks.{layer}.ln1")
        close(normed, block.ln_1(x))
        for name, weight, offset in zip("qkv", (q, k, v), bias, strict=True):
            close(part[f"attn.hook_{name}"], (normed @ weight.T + offset).reshape(N, T, H, D))
        scores = torch.einsum("bqhd,bkhd->bhqk", part["attn.hook_q"], part["attn.hook_k"]) / D**0.5
        close(part["attn.hook_attn_scores"], scores)
        close(part["attn.hook_pattern"], scores.softmax(-1))
        close(part["attn.hook_pattern"].sum(-1), torch.ones(N, H, T))
        close(part["attn.hook_z"], torch.einsum("bhqk,bkhd->bqhd", part["attn.hook_pattern"], part["attn.hook_v"]))
        out = part["attn.hook_result"].sum(2) + block.attn.out_proj.bias
        close(part["attn.hook_result"][:, :, 1], part["attn.hook_z"][:, :, 1] @ block.attn.out_proj.weight[:, 8:16].T)
        close(part["hook_attn_out"], out * block.ls_1.gamma)
        x = x + part["hook_attn_out"]
        close(part["hook_resid_mid"], x)
        close(part["mlp.hook_pre"], block.mlp.c_fc(norm(x, f"blocks.{layer}.ln2")))
        close(part["mlp.hook_post"], block.mlp.gelu(part["mlp.hook_pre"]))
        close(part["hook_mlp_out"], block.mlp.c_proj(part["mlp.hook_post"]) * block.ls_2.gamma)
        x = x + part["hook_mlp_out"]
        close(part["hook_resid_post"], x)
    close(norm(x[:, :1], "ln_final")[:, 0] @ tower.tower.proj, output)


@torch.no_grad()
@pytest.mark.parametrize("name", SHAPES)
def test_off_is_identical_and_on_is_different(name, tower, images):
    before = tower(images)
    shapes = []

    def look(x, hook):
        shapes.append(tuple(x.shape))

    seen = tower.run_with_hooks(images, fwd_hooks=[(name, look)])
    torch.testing.assert_close(seen, before, rtol=1e-4, atol=1e-5)
    assert shapes == [SHAPES[name]]
    # Uneven, since softmax and norms do not see an even shift.
    edited = tower.run_with_hooks(
        images, fwd_hooks=[(name, lambda x, hook: x * 1.5 + torch.linspace(0, 1, x.shape[-1]))]
    )
    assert (edited - before).abs().max() > 1e-3
    assert torch.equal(tower(images), before)
    assert no_hooks(tower)


def test_rows_that_are_not_read_need_not_be_computed(tower, images):
    stream = tower.embed(images)
    for block in tower.blocks:
        torch.testing.assert_close(block(stream, rows=2), block(stream)[:, :2])
        stream = block(stream)


def test_plain_products_are_the_fused_attention(tower, images):
    with sdpa_kernel(SDPBackend.MATH):
        plain = tower(images)
    torch.testing.assert_close(plain, tower(images))
    assert not torch.equal(plain, tower(images))


def test_norms_without_weights_have_no_scale(make_clip, images):
    tower = HookedViT(make_clip(no_ln_pre=True).visual)
    output, cache = tower.run_with_cache(images)
    assert "ln_pre.hook_scale" not in cache
    torch.testing.assert_close(cache["ln_pre.hook_normalized"], cache["hook_embed"] + cache["hook_pos_embed"])
    assert output.shape == (3, 24)


def test_norms_use_their_own_epsilon(make_clip, images):
    tower = HookedViT(make_clip().visual)
    tower.tower.ln_pre.eps = 0.5
    with torch.no_grad():
        plain = tower(images)
        listened, cache = tower.run_with_cache(images)
    torch.testing.assert_close(listened, plain, rtol=1e-4, atol=1e-5)
    variance = (cache["hook_embed"] + cache["hook_pos_embed"]).var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(cache["ln_pre.hook_scale"], (variance + 0.5).sqrt())


def test_cached_tensors_are_detached(tower, images):
    output, cache = tower.run_with_cache(images)
    assert output.requires_grad
    assert not any(value.requires_grad for value in cache.values())


def test_hooks_are_gone_after_success(tower, images):
    tower.run_with_cache(images)
    tower.run_with_hooks(images, fwd_hooks=[("hook_embed", lambda x, hook: x)])
    with tower.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda x, hook: x)]):
        assert not no_hooks(tower)
    assert no_hooks(tower)


def test_hooks_are_gone_after_a_bad_argument(tower, images):
    good = ("hook_embed", lambda x, hook: x)
    with pytest.raises(KeyError, match="hook_nowhere"):
        tower.run_with_hooks(images, fwd_hooks=[good, ("hook_nowhere", lambda x, hook: x)])
    assert no_hooks(tower)
    with pytest.raises(SettingError, match=r"not \[3, 32, 32\].*model.preprocess"):
        tower.run_with_cache(images[0])
    assert no_hooks(tower)


def test_hooks_are_gone_after_an_exception(tower, images):
    def fail(x, hook):
        raise RuntimeError("out of luck")

    before = tower(images)
    with pytest.raises(RuntimeError, match="out of luck"):
        tower.run_with_hooks(images, fwd_hooks=[("blocks.1.hook_mlp_out", fail)])
    assert no_hooks(tower)
    with pytest.raises(RuntimeError, match="out of luck"), tower.hooks([("hook_embed", lambda x, hook: 0 * x)]):
        raise RuntimeError("out of luck")
    assert no_hooks(tower)
    assert torch.equal(tower(images), before)


def test_inner_hooks_leave_outer_ones_alone(tower, images):
    with tower.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x * 2)]):
        outer = tower(images)
        inner = tower.run_with_hooks(images, fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: x * 0)])
        assert torch.equal(tower(images), outer)
        assert (inner - outer).abs().max() > 1e-3
    assert no_hooks(tower)


def test_gradients_can_be_listened_to(tower, images):
    found = {}

    def keep(gradient, hook):
        found[hook.name] = gradient.clone()

    with tower.hooks(bwd_hooks=[("blocks.2.attn.hook_pattern", keep), ("blocks.1.hook_resid_post", keep)]):
        tower(images).sum().backward()
    assert found["blocks.2.attn.hook_pattern"].shape == (N, H, T, T)
    assert found["blocks.1.hook_resid_post"].abs().sum() > 0
    # Only the class token's row of the last block is read.
    assert torch.count_nonzero(found["blocks.2.attn.hook_pattern"][:, :, 1:]) == 0
    assert no_hooks(tower)


def test_weights_stay_the_originals(make_clip, images, unchanged):
    clip = make_clip()
    same = unchanged(clip)
    tower = HookedViT(clip.visual)
    tower.run_with_cache(images)
    assert same()
    assert {id(p) for p in tower.parameters()} == {id(p) for p in clip.visual.parameters()}
    (reference,) = torch.autograd.grad(clip.visual(images).square().sum(), clip.visual.proj)
    (found,) = torch.autograd.grad(tower(images).square().sum(), clip.visual.proj)
    torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)
    before = tower(images)
    with torch.no_grad():
        clip.visual.transformer.resblocks[1].mlp.c_fc.weight.mul_(2)
    assert (tower(images) - before).abs().max() > 1e-3


def test_pictures_are_not_changed(tower, images):
    before = images.clone()
    tower.run_with_cache(images)
    tower(images)
    assert torch.equal(images, before)


def test_properties_describe_the_tower(tower):
    assert (tower.n_layers, tower.n_heads, tower.d_model, tower.d_embed) == (3, 4, 32, 24)
    assert (tower.image_size, tower.grid) == (32, (4, 4))


def test_images_of_the_wrong_kind_are_refused(tower):
    with pytest.raises(SettingError, match=r"\[batch, 3, 32, 32\], not \[2, 1, 32, 32\]"):
        tower(torch.zeros(2, 1, 32, 32))
    with pytest.raises(SettingError, match=r"torch.uint8.*model.normalize\(pixels / 255\)"):
        tower(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def test_an_empty_batch_is_encoded(tower):
    assert tower(torch.zeros(0, 3, 32, 32)).shape == (0, 24)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pool_type": "none"}, "pool_type='none'.*no single representation"),
        ({"attentional_pool": "parallel", "attn_pooler_heads": 2}, "attention pool of kind parallel"),
        ({"attentional_pool": "cascade", "attn_pooler_heads": 2}, "attention pool of kind cascade"),
        ({"attentional_pool": True, "pool_type": "avg", "attn_pooler_heads": 2}, "kind pool_type='avg'"),
        ({"block_type": "custom", "qk_norm": True}, "CustomResidualAttentionBlock"),
        ({"scale_heads": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_towers_with_another_sum_are_refused(options, reason, make_clip):
    visual = make_clip(**options).visual
    with pytest.raises(ModelError, match=reason):
        HookedViT(visual)


def test_towers_of_another_type_are_refused():
    resnet = _build_vision_tower(16, {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "head_width": 8})
    with pytest.raises(ModelError, match=r"ModifiedResNet.*VisionTransformer with a class token"):
        HookedViT(resnet)
    with pytest.raises(ModelError, match="type Linear"):
        HookedViT(torch.nn.Linear(2, 2))


def test_towers_without_a_projection_are_refused(make_clip):
    visual = make_clip().visual
    visual.proj = None
    with pytest.raises(ModelError, match="no projection"):
        HookedViT(visual)
