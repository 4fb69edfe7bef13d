"""Deep visual prompts: the same function as tokens and as keys, seen by every reading, gone without a trace."""

import json

import pytest
import torch

import clip_decomp
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.methods.attention import attention_between, attention_maps, rollout, split_tokens
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.prompts import DeepVisualPrompts
from clip_decomp.training.architecture import Architecture, build

GRID = (4, 4)


@pytest.fixture
def prompts(model):
    """Five prompts of the last two blocks that matter."""
    made = DeepVisualPrompts(model, 5, [1, 2])
    made.prompts.data.normal_(generator=torch.Generator().manual_seed(1))
    return made


def by_hand(model, prompts, images):
    """The definition: concatenate, run open_clip's own block, cut off."""
    tower = model.clip.visual
    stream = model.visual.embed(images)
    for layer, block in enumerate(tower.transformer.resblocks):
        if layer not in prompts.blocks:
            stream = block(stream)
            continue
        own = prompts.prompts[prompts.blocks.index(layer)].expand(len(images), -1, -1)
        stream = block(torch.cat([stream, own], dim=1))[:, : -prompts.length]
    return tower.ln_post(stream[:, 0]) @ tower.proj


@pytest.mark.parametrize("keys", [False, True])
def test_prompts_are_the_definition(model, prompts, images, keys):
    with torch.no_grad():
        found = prompts.on(model, keys=keys).encode_image(images)
        expected = by_hand(model, prompts, images)
        plain = model.encode_image(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (expected - plain).abs().max() > 0.05


@pytest.mark.parametrize("keys", [False, True])
def test_gradients_are_the_definitions(model, prompts, images, keys):
    by_hand(model, prompts, images).square().sum().backward()
    expected, prompts.prompts.grad = prompts.prompts.grad, None
    with prompts.attached(model, keys=keys):
        model.encode_image(images).square().sum().backward()
    torch.testing.assert_close(prompts.prompts.grad, expected, rtol=1e-3, atol=1e-5)


def test_without_prompts_the_model_is_what_it_was(model, prompts, images):
    before = model.encode_image(images)
    with prompts.attached(model):
        assert not torch.equal(model.encode_image(images), before)
    prompted = prompts.on(model)
    assert torch.equal(model.encode_image(images), before)
    with prompted.visual.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x)]):  # resets hooks that are not permanent
        prompted.encode_image(images)
    assert not torch.equal(prompted.encode_image(images), before)


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("convention", ["exact", "paper"])
@torch.no_grad()
def test_decompositions_are_exact_and_hold_the_prompts(model, prompts, images, keys, convention):
    prompted = prompts.on(model, keys=keys)
    dec = prompted.decompose(images, tokens=True, convention=convention)
    whole = prompted.encode_image(images)
    expected = whole / whole.norm(dim=-1, keepdim=True) if dec.convention.divide_by_norm else whole
    torch.testing.assert_close(dec.sum(), expected, rtol=1e-4, atol=1e-5)
    assert dec.attention.shape == (3, 3, 4, 22)
    assert (dec.attention[:, 0, :, 17:] == 0).all()  # block 0 has none
    assert (dec.attention[:, 1:, :, 17:] > 0).all()
    torch.testing.assert_close(dec.attention.sum(-1), torch.ones(3, 3, 4))
    tokens = dec.tokens(2, 1)
    torch.testing.assert_close(tokens.sum(1), dec.heads[:, 2, 1], rtol=1e-4, atol=1e-5)
    assert tokens[:, 17:].abs().max() > 0


@torch.no_grad()
def test_attention_maps_see_class_token_patches_and_prompts(model, prompts, images):
    prompted = prompts.on(model)
    shares = split_tokens(prompted.decompose(images).attention, GRID)
    assert (shares.prompts[:, 0] == 0).all()
    assert (shares.prompts[:, 1:] > 0).all()
    assert attention_maps(prompted.decompose(images), GRID).shape == (3, 3, 4, 4, 4)
    assert attention_between(prompted, images, layers=[1, 2]).groups == ("class token", "patches", "prompts")
    with pytest.raises(SettingError, match="attach them as tokens"):
        attention_between(prompts.on(model, keys=True), images, layers=[1, 2])


@torch.no_grad()
def test_rollout_gives_every_layers_prompts_a_place(model, prompts, images):
    """Prompts are dropped behind their block: those of the next block are others."""
    rows = [rollout(prompts.on(model, keys=keys), images) for keys in (False, True)]
    assert rows[0].shape == (3, 17 + 5 + 5)
    torch.testing.assert_close(rows[0].sum(1), torch.ones(3))
    torch.testing.assert_close(rows[0], rows[1])
    _, cache = prompts.on(model).visual.run_with_cache(images)
    last = cache["blocks.2.attn.hook_pattern"].mean(1)[:, 0, 17:]
    torch.testing.assert_close(rows[0][:, 22:], 0.5 * last)


def test_sizes_of_the_papers_prompts():
    """RVPT's ViT-B/32 with b = 50 and D = 3: 345,600 values, 0.23 % of CLIP's 151.3 million."""
    clip = build(Architecture(embed_dim=512, image_size=224, patch_size=32, layers=12, width=768, heads=12))
    model = HookedCLIP(clip.eval(), lambda texts: torch.zeros(len(texts), 8, dtype=torch.long), (0,) * 3, (1,) * 3)
    prompts = DeepVisualPrompts(model, 50, range(3, 12))
    assert prompts.count == 345_600
    assert round(100 * prompts.count / 151.3e6, 2) == 0.23


def test_prompts_are_saved_alone_and_only_loaded_for_their_model(
    model, prompts, images, tmp_path, make_clip, tokenizer
):
    prompts.save(tmp_path / "tuned", note="kept")
    assert sorted(each.name for each in (tmp_path / "tuned").iterdir()) == ["prompts.json", "prompts.safetensors"]
    assert json.loads((tmp_path / "tuned" / "prompts.json").read_text())["note"] == "kept"
    loaded = DeepVisualPrompts.load(tmp_path / "tuned", model)
    assert loaded.blocks == prompts.blocks
    assert torch.equal(loaded.prompts, prompts.prompts)
    other = HookedCLIP(make_clip(quick_gelu=True), tokenizer, model.mean, model.std, "other")
    other.clip.visual.proj.data += 0.1
    assert fingerprint(other) != fingerprint(model)
    with pytest.raises(ModelError, match=r"made for another image tower .* than other's"):
        DeepVisualPrompts.load(tmp_path / "tuned", other)
    with pytest.raises(ModelError, match="made for another image tower"):
        prompts.on(other)


def test_damaged_prompts_are_refused(model, prompts, tmp_path):
    with pytest.raises(ModelError, match="holds no prompts"):
        DeepVisualPrompts.load(tmp_path, model)
    prompts.save(tmp_path)
    (tmp_path / "prompts.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        DeepVisualPrompts.load(tmp_path, model)
    prompts.prompts.data[0, 0, 0] = torch.nan
    prompts.save(tmp_path)
    with pytest.raises(ModelError, match="must be finite"):
        DeepVisualPrompts.load(tmp_path, model)


def test_bad_settings_are_named(model):
    with pytest.raises(SettingError, match="no block 3 to prompt: this tower has blocks 0 to 2"):
        DeepVisualPrompts(model, 1, [3])
    with pytest.raises(SettingError, match="no blocks to prompt"):
        DeepVisualPrompts(model, 1, [])
    with pytest.raises(SettingError, match="must be 1 or more, not 0"):
        DeepVisualPrompts(model, 0, [1])
    assert DeepVisualPrompts(model, 1, [-1, 2, 0]).blocks == (0, 2)


def test_a_resnet_has_no_tokens(tokenizer):
    clip = build(Architecture(layers=(1, 1, 1, 1), width=8, heads=4)).eval()
    with pytest.raises(ModelError, match="has none"):
        DeepVisualPrompts(HookedCLIP(clip, tokenizer, (0,) * 3, (1,) * 3), 1, [0])


def test_fingerprint_does_not_depend_on_the_precision_of_loading():
    model = clip_decomp.load("world/clean")
    before = fingerprint(model)
    model.clip.half()
    assert fingerprint(model) == before
