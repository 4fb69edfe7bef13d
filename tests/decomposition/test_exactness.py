"""The parts are right and add up: by hand, in real architectures, against the reference code."""

import copy
import json

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, _build_vision_tower
from open_clip.transformer import LayerNormFp32
from safetensors import safe_open
from safetensors.torch import load_file

from clip_decomp.decompose import decompose
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT


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


def test_every_part_agrees_with_a_computation_by_hand(clip, images, gap):
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


def test_sum_is_what_open_clip_encodes(clip, images, gap):
    with torch.no_grad():
        expected = clip.encode_image(images)
    dec = decompose(HookedViT(clip.visual), images)
    assert gap(dec.sum(), expected) < 1e-5
    torch.testing.assert_close(dec.sum(normalize=True), clip.encode_image(images, normalize=True))


def test_the_final_norms_own_epsilon_is_used(make_clip, images, gap):
    clip = make_clip()
    clip.visual.ln_post.eps = 0.5
    hand = by_hand(clip.visual, images)
    dec = decompose(HookedViT(clip.visual), images)
    for part in ("embedding", "heads", "mlps", "bias"):
        assert gap(getattr(dec, part), hand[part]) < 1e-5, part


def check_architecture(name, randomize, gap, n_images):
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
def test_real_architectures_are_exact(name, randomize, gap):
    check_architecture(name, randomize, gap, n_images=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-L-14-336", "ViT-H-14"])
def test_large_architectures_are_exact(name, randomize, gap):
    check_architecture(name, randomize, gap, n_images=1)


def test_a_picture_is_decomposed_alike_alone_and_in_a_batch(model, images):
    together = model.decompose(images)
    for k in range(len(images)):
        alone = model.decompose(images[k : k + 1])
        assert len(alone) == 1
        for part in ("heads", "mlps", "embedding", "bias", "norm"):
            torch.testing.assert_close(getattr(alone, part)[0], getattr(together, part)[k], rtol=1e-4, atol=1e-6)


def test_golden_numbers_of_the_reference_code(golden, gap):
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
