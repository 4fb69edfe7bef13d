import copy
import json

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, _build_vision_tower
from open_clip.transformer import LayerNormFp32
from safetensors import safe_open
from safetensors.torch import load_file

from clip_decomp.convention import EXACT, PAPER, Convention, convention
from clip_decomp.decomposition import decompose
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT

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


def gap(found, expected):
    """Largest error relative to the norm of the expected vectors."""
    expected = expected.double()
    scale = expected.flatten(0, -2).norm(dim=-1).max()
    return ((found.double() - expected).norm(dim=-1).max() / scale).item()


def overall(found, expected):
    """Error of everything together, relative to everything."""
    return ((found.double() - expected).norm() / expected.norm()).item()


@torch.no_grad()
def by_hand(tower, images):
    """The decomposition written down once more, in float64, one head at a time, on open_clip's own forward pass."""
    tower = copy.deepcopy(tower).double()
    for module in tower.modules():
        if isinstance(module, LayerNormFp32):
            module.__class__ = torch.nn.LayerNorm
    streams = []
    for block in tower.transformer.resblocks:
        block.register_forward_hook(lambda module, args, output: streams.append((args[0], output)))
    total = tower(images.double())
    final = streams[-1][1][:, 0]
    sigma = (final.var(-1, unbiased=False, keepdim=True) + tower.ln_post.eps).sqrt()

    def read(x):
        centered = x - x.mean(-1, keepdim=True)
        shape = (len(sigma), *[1] * (x.ndim - 2), 1)
        return (centered / sigma.reshape(shape) * tower.ln_post.weight) @ tower.proj

    result = {"total": total, "embedding": read(streams[0][0][:, 0])}
    heads, tokens, mlps, attentions, constant = [], [], [], [], 0
    for block, (x, out) in zip(tower.transformer.resblocks, streams, strict=True):
        normed = block.ln_1(x)
        attention = block.attn
        d_head = attention.embed_dim // attention.num_heads
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        for h in range(attention.num_heads):
            rows = slice(h * d_head, (h + 1) * d_head)
            q, k, v = (normed @ w[rows].T + b[rows] for w, b in zip(weights, biases, strict=True))
            pattern = (q[:, :1] @ k.transpose(1, 2) / d_head**0.5).softmax(-1)[:, 0]
            sent = block.ls_1(pattern[..., None] * v @ attention.out_proj.weight[:, rows].T)
            attentions.append(pattern)
            tokens.append(read(sent))
            heads.append(read(sent.sum(1)))
        middle = x + block.ls_1(attention(normed, normed, normed, need_weights=False)[0])
        mlp_bias = block.ls_2(block.mlp.c_proj.bias)
        mlps.append(read((out - middle)[:, 0] - mlp_bias))
        constant = constant + block.ls_1(attention.out_proj.bias) + mlp_bias
    shape = (len(images), len(streams), -1)
    result["heads"] = torch.stack(heads, 1).reshape(*shape, total.shape[1])
    result["tokens"] = torch.stack(tokens, 1).reshape(*shape, *tokens[0].shape[1:])
    result["attention"] = torch.stack(attentions, 1).reshape(*shape, attentions[0].shape[1])
    result["mlps"] = torch.stack(mlps, 1)
    result["bias"] = read(constant.expand(len(images), -1)) + tower.ln_post.bias @ tower.proj
    return result


def test_every_part_agrees_with_a_computation_by_hand(clip, images):
    hand = by_hand(clip.visual, images)
    dec = decompose(HookedViT(clip.visual), images, tokens=True)
    assert (
        gap(hand["embedding"] + hand["heads"].sum((1, 2)) + hand["mlps"].sum(1) + hand["bias"], hand["total"]) < 1e-12
    )
    for part in ("embedding", "heads", "mlps", "bias", "attention"):
        assert getattr(dec, part).shape == hand[part].shape
        assert gap(getattr(dec, part), hand[part]) < 1e-5, part
    assert gap(dec.attentions, hand["heads"].sum(2)) < 1e-5
    assert gap(dec.sum(), hand["total"]) < 1e-5
    for layer in range(dec.n_layers):
        for head in range(dec.n_heads):
            assert gap(dec.tokens(layer, head), hand["tokens"][:, layer, head]) < 1e-5


def test_sum_is_what_open_clip_encodes(clip, images):
    with torch.no_grad():
        expected = clip.encode_image(images)
    dec = decompose(HookedViT(clip.visual), images)
    assert gap(dec.sum(), expected) < 1e-5
    torch.testing.assert_close(dec.sum(normalize=True), clip.encode_image(images, normalize=True))


def test_the_final_norms_own_epsilon_is_used(make_clip, images):
    clip = make_clip()
    clip.visual.ln_post.eps = 0.5
    hand = by_hand(clip.visual, images)
    dec = decompose(HookedViT(clip.visual), images)
    for part in ("embedding", "heads", "mlps", "bias"):
        assert gap(getattr(dec, part), hand[part]) < 1e-5, part


def check_architecture(name, randomize, n_images):
    config = open_clip.get_model_config(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    randomize(tower)
    images = torch.randn(n_images, 3, *tower.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tower(images)
        dec = decompose(HookedViT(tower), images)
        whole = dec.embedding + dec.heads.sum((1, 2)) + dec.mlps.sum(1) + dec.bias
    assert gap(dec.sum(), expected) < 1e-5
    assert gap(whole, expected) < 1e-5


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16"])
def test_real_architectures_are_exact(name, randomize):
    check_architecture(name, randomize, n_images=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-L-14-336", "ViT-H-14"])
def test_large_architectures_are_exact(name, randomize):
    check_architecture(name, randomize, n_images=1)


def test_tokens_sum_to_heads_and_projections_agree_with_vectors(clip, images):
    tower = HookedViT(clip.visual)
    texts = torch.randn(5, tower.d_embed, generator=torch.Generator().manual_seed(3))
    for rule in (EXACT, PAPER):
        dec = decompose(tower, images, tokens=True, convention_name=rule)
        tokens = torch.stack(
            [torch.stack([dec.tokens(la, h) for h in range(dec.n_heads)], 1) for la in range(dec.n_layers)], 1
        )
        torch.testing.assert_close(tokens.sum(3), dec.heads, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dec.toward(texts), dec.heads @ texts.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dec.token_map(texts), tokens @ texts.T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(dec.attentions, dec.heads.sum(2), rtol=1e-4, atol=1e-5)


def test_token_map_returns_the_layers_and_heads_asked_for(model, images):
    dec = model.decompose(images, tokens=True)
    texts = torch.eye(24)[:2]
    whole = dec.token_map(texts)
    assert whole.shape == (3, 3, 4, 17, 2)
    torch.testing.assert_close(dec.token_map(texts, layers=[2, 0], heads=[3]), whole[:, [2, 0]][:, :, [3]])
    torch.testing.assert_close(dec.tokens(-1, -1), dec.tokens(2, 3))


def test_a_picture_is_decomposed_alike_alone_and_in_a_batch(model, images):
    together = model.decompose(images)
    for k in range(len(images)):
        alone = model.decompose(images[k : k + 1])
        assert len(alone) == 1
        for part in ("heads", "mlps", "embedding", "bias", "norm"):
            torch.testing.assert_close(getattr(alone, part)[0], getattr(together, part)[k], rtol=1e-4, atol=1e-6)


def test_golden_numbers_of_the_reference_code(golden):
    file = golden / "decomposition.safetensors"
    found = load_file(file)
    with safe_open(file, "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    clip = CLIP(
        config["embed_dim"],
        CLIPVisionCfg(**config["vision_cfg"]),
        CLIPTextCfg(**config["text_cfg"]),
        quick_gelu=config["quick_gelu"],
    ).eval()
    weights = {key.removeprefix("model.visual."): value for key, value in found.items() if key.startswith("model.")}
    clip.visual.load_state_dict(weights)
    model = HookedCLIP(clip, None, (0, 0, 0), (1, 1, 1))
    with torch.no_grad():
        exact = model.decompose(found["images"])
        dec = model.decompose(found["images"], tokens=True, convention="paper")
    representation = found["representation"]
    assert gap(model.encode_image(found["images"]), representation) < 1e-5
    assert gap(exact.sum(), representation) < 1e-5
    assert gap(dec.sum() * dec.norm[:, None], representation) < 1e-5
    torch.testing.assert_close(dec.norm, representation.norm(dim=1))
    attentions, mlps = found["attentions"], found["mlps"]
    for layer in range(dec.n_layers):
        for head in range(dec.n_heads):
            torch.testing.assert_close(dec.tokens(layer, head), attentions[:, layer, :, head], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dec.heads, attentions.sum(2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dec.embedding, mlps[:, 0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dec.mlps, mlps[:, 1:], rtol=1e-4, atol=1e-6)


def test_paper_convention_leaves_no_bias_and_divides_by_the_norm(clip, images):
    tower = HookedViT(clip.visual)
    exact, paper = decompose(tower, images), decompose(tower, images, convention_name="paper")
    assert paper.convention is PAPER
    assert torch.count_nonzero(paper.bias) == 0
    assert gap(paper.sum(), exact.sum(normalize=True)) < 1e-5


def test_conventions_can_be_spread_without_dividing(model, images):
    mixed = Convention("mixed", spread=True, divide_by_norm=False, embedding_is_mlp=False, asr_includes_target=False)
    exact, dec, paper = (model.decompose(images, convention=rule) for rule in ("exact", mixed, "paper"))
    assert gap(dec.sum(), exact.sum()) < 1e-5
    torch.testing.assert_close(dec.heads / dec.norm[:, None, None, None], paper.heads, rtol=1e-4, atol=1e-6)


def test_unknown_convention_is_refused(model, images):
    with pytest.raises(SettingError, match=r"'gandelsman'.*'exact' or 'paper'"):
        model.decompose(images, convention="gandelsman")
    assert convention("paper") is PAPER
    assert convention(EXACT) is EXACT


def test_attention_is_the_class_tokens_row_of_the_pattern(model, images):
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    _, cache = model.visual.run_with_cache(images, names_filter=names)
    rows = torch.stack([cache[name][:, :, 0] for name in names], dim=1)
    dec = model.decompose(images)
    torch.testing.assert_close(dec.attention, rows)
    torch.testing.assert_close(dec.attention.sum(-1), torch.ones(3, 3, 4))


HOOKED = (
    "attn.hook_z",
    "hook_mlp_out",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_pattern",
    "mlp.hook_post",
)


@pytest.mark.parametrize("name", HOOKED)
def test_the_sum_stays_exact_under_hooks_on_components(name, model, images):
    before = model.decompose(images)
    hook = (f"blocks.1.{name}", lambda x, hook: x * 0.5 + 0.1)
    with model.visual.hooks(fwd_hooks=[hook]):
        expected = model.encode_image(images)
        dec = model.decompose(images, tokens=True)
    assert gap(dec.sum(), expected) < 1e-5
    assert gap(dec.sum(), before.sum()) > 1e-3
    texts = torch.eye(24)[:3]
    if name != "attn.hook_z":  # an edited z is no longer a sum over tokens
        torch.testing.assert_close(dec.token_map(texts).sum(3), dec.toward(texts), rtol=1e-4, atol=1e-5)


def test_zeroing_a_heads_z_takes_out_its_contribution_and_nothing_else_of_its_layer(model, images):
    def zero(z, hook):
        z = z.clone()
        z[:, :, 2] = 0
        return z

    before = model.decompose(images)
    with model.visual.hooks(fwd_hooks=[("blocks.2.attn.hook_z", zero)]):
        after = model.decompose(images)
    assert torch.count_nonzero(after.heads[:, 2, 2]) == 0
    # Contributions of the last layer differ by the final norm's scale alone.
    ratio = after.heads[:, 2, [0, 1, 3]] / before.heads[:, 2, [0, 1, 3]]
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)


def test_training_mode_is_an_error_that_names_the_module(model, images):
    model.visual.tower.transformer.resblocks[1].mlp.train()
    with pytest.raises(ModelError, match=r"transformer\.resblocks\.1\.mlp is in training mode: call \.eval\(\) first"):
        model.decompose(images)
    model.clip.train()
    with pytest.raises(ModelError, match=r"The image tower is in training mode"):
        model.decompose(images)
    assert model.clip.visual.training  # nothing was repaired silently


def test_nothing_is_changed(model, images, unchanged):
    same, copy_of_images = unchanged(model.clip), images.clone()
    model.decompose(images, tokens=True, convention="paper").token_map(torch.eye(24))
    assert same()
    assert torch.equal(images, copy_of_images)
    assert not model.visual.list_hooks()


def test_gradients_reach_the_pictures(model, images):
    images.requires_grad_()
    model.decompose(images).heads[:, 2, 1].sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("pure", [True, False], ids=["all bf16", "norms in fp32"])
def test_bfloat16_towers_are_accumulated_in_float32(pure, make_clip, images):
    if pure:
        clip = make_clip(ls_init_value=0.1).to(torch.bfloat16)
    else:  # open_clip's mixed precision, which knows no LayerScale
        clip = make_clip(cast_dtype=torch.bfloat16)
        open_clip.model.convert_weights_to_lp(clip, torch.bfloat16)
        assert clip.visual.ln_post.weight.dtype == torch.float32
    hand = by_hand(clip.visual, images)  # the same rounded weights, computed in float64
    with torch.no_grad():
        dec = decompose(HookedViT(clip.visual), images, tokens=True)
    for part in ("embedding", "heads", "mlps", "bias", "attention"):
        assert getattr(dec, part).dtype == torch.float32
        assert overall(getattr(dec, part), hand[part]) < 0.05, part
    # Adding up costs no precision beyond that of the tower's own activations.
    own_error = overall(clip.visual(images.to(torch.bfloat16)), hand["total"])
    assert overall(dec.sum(), hand["total"]) < max(0.02, 3 * own_error)


def test_errors_name_the_value_and_the_way_out(model, images):
    dec = model.decompose(images)
    with pytest.raises(SettingError, match=r"decompose\(images, tokens=True\)"):
        dec.tokens(0, 0)
    with pytest.raises(SettingError, match="tokens=True"):
        dec.token_map(torch.eye(24))
    with pytest.raises(SettingError, match=r"\[text, 24\], not \[2, 23\]"):
        dec.toward(torch.zeros(2, 23))
    with pytest.raises(SettingError, match=r"\[text, 24\], not \[24\]"):
        dec.toward(torch.zeros(24))
    dec = model.decompose(images, tokens=True)
    with pytest.raises(SettingError, match="no head L3H0: this tower has 3 layers of 4 heads"):
        dec.tokens(3, 0)
    with pytest.raises(SettingError, match="no head L0H-5"):
        dec.tokens(0, -5)
    with pytest.raises(SettingError, match="no head L0H4"):
        dec.token_map(torch.eye(24), heads=[0, 4])
    with pytest.raises(SettingError, match=r"Images must be \[batch, 3, 32, 32\], not \[3, 3, 16, 16\]"):
        model.decompose(torch.zeros(3, 3, 16, 16))
