"""Attention maps, token maps, rollout and attention between groups, on attention that is written down."""

import math

import pytest
import torch
from scipy.linalg import hadamard

from clip_decomp.errors import SettingError
from clip_decomp.methods.attention import (
    attention_between,
    attention_maps,
    head_maps,
    patch_grid,
    relevance,
    rollout,
    split_tokens,
    upsample,
)
from clip_decomp.model import HookedCLIP

GRID = (4, 4)
TEXTS = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def dec(model, images):
    with torch.no_grad():
        return model.decompose(images, tokens=True)


def test_patch_grid_reads_rows_between_class_token_and_prompts():
    tokens = torch.tensor([[9.0, 1, 2, 3, 4, 5, 6, 8, 8]])
    assert patch_grid(tokens, (2, 3)).tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert patch_grid(tokens.T, (3, 2), dim=0)[..., 0].tolist() == [[1, 2], [3, 4], [5, 6]]
    with pytest.raises(SettingError, match=r"3 x 3 patches are 10 tokens, but axis -1 of \[1, 9\] has 9"):
        patch_grid(tokens, (3, 3))


def test_split_tokens_by_hand():
    row = torch.tensor([0.5, 0.1, 0.1, 0.0, 0.1, 0.15, 0.05]).expand(2, 3, 4, 7)
    shares = split_tokens(row, (2, 2))
    for found, expected in ((shares.class_token, 0.5), (shares.patches, 0.3), (shares.prompts, 0.2)):
        torch.testing.assert_close(found, torch.full((2, 3, 4), expected))
    frame = shares.to_frame()
    assert list(frame.index[:5]) == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]
    assert frame.loc["L2H3"].tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert "L2H3" in shares._repr_html_()
    assert (split_tokens(row[..., :5], (2, 2)).prompts == 0).all()
    with pytest.raises(SettingError, match=r"\[batch, layer, head, token\], not \[7\]"):
        split_tokens(row[0, 0, 0], (2, 2))


def test_attention_of_a_hand_made_two_head_model(make_clip, tokenizer):
    """Tokens are rows of a Hadamard matrix, which layer norm leaves alone; head 1's keys are logarithms of ``row``."""
    clip = make_clip(layers=1, head_width=16, no_ln_pre=True)
    row = torch.tensor([0.5, *[0.01] * 15, 0.35])  # class token, a corner, and a little everywhere
    tokens = torch.tensor(hadamard(32)[1:18], dtype=torch.float32)
    block = clip.visual.transformer.resblocks[0]
    with torch.no_grad():
        for tensor in (clip.visual.conv1.weight, clip.visual.class_embedding, block.ln_1.bias):
            tensor.zero_()
        block.ln_1.weight.fill_(1)
        clip.visual.positional_embedding.copy_(tokens)
        block.attn.in_proj_weight[:64].zero_()
        block.attn.in_proj_bias[:64].zero_()
        block.attn.in_proj_bias[16] = 1  # the only query: first dimension of head 1
        block.attn.in_proj_weight[32 + 16] = (row.log() * math.sqrt(16)) @ tokens / 32
    model = HookedCLIP(clip, tokenizer, (0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        dec = model.decompose(torch.zeros(2, 3, 32, 32), tokens=True)
    torch.testing.assert_close(dec.attention[:, 0, 0], torch.full((2, 17), 1 / 17), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dec.attention[:, 0, 1], row.expand(2, -1), rtol=1e-4, atol=1e-5)
    maps = attention_maps(dec, GRID)
    assert maps.shape == (2, 1, 2, 4, 4)
    torch.testing.assert_close(maps[0, 0, 1, 3], torch.tensor([0.01, 0.01, 0.01, 0.35]), rtol=1e-4, atol=1e-5)
    shares = split_tokens(dec.attention, GRID)
    torch.testing.assert_close(shares.patches[0, 0], torch.tensor([16 / 17, 0.5]), rtol=1e-4, atol=1e-5)
    # What a head writes at a patch is attention times what the value pushes: here values are linear in the token.
    values = tokens @ block.attn.in_proj_weight[64:].T + block.attn.in_proj_bias[64:]
    with torch.no_grad():
        written = row[:, None] * (values[:, 16:] @ block.attn.out_proj.weight[:, 16:].T)
        read = clip.visual.ln_post.weight[:, None] * clip.visual.proj
        read = (read - read.mean(0)) @ TEXTS[0]
        final = model.visual.run_with_cache(torch.zeros(1, 3, 32, 32))[1]["blocks.0.hook_resid_post"][0, 0]
        expected = written @ read / (final.var(correction=0) + 1e-5).sqrt()
    found = head_maps(dec, TEXTS[:1], GRID, heads=[1])[0, 0, 0, ..., 0]
    torch.testing.assert_close(found, expected[1:].reshape(4, 4), rtol=1e-3, atol=1e-5)


def test_hand_written_patterns_reach_the_maps(model, images, fixed):
    pattern = torch.zeros(17, 17)
    pattern[:, 7] = 1  # everything looks at the third patch of the second row
    with fixed(lambda layer: pattern):
        maps = attention_maps(model.decompose(images), GRID)
    expected = torch.zeros(4, 4)
    expected[1, 2] = 1
    assert torch.equal(maps, expected.expand(3, 3, 4, 4, 4))


@pytest.mark.parametrize("rule", ["exact", "paper"])
def test_head_maps_and_the_class_token_sum_to_the_heads_push(rule, model, images):
    with torch.no_grad():
        dec = model.decompose(images, tokens=True, convention=rule)
    tokens = dec.token_map(TEXTS)
    maps = head_maps(dec, TEXTS, GRID)
    assert maps.shape == (3, 3, 4, 4, 4, 3)
    torch.testing.assert_close(maps.sum((3, 4)) + tokens[:, :, :, 0], dec.toward(TEXTS), rtol=1e-4, atol=1e-5)
    assert torch.equal(maps[:, :, :, 2, 1], tokens[:, :, :, 1 + 2 * 4 + 1])
    assert torch.equal(head_maps(dec, TEXTS, GRID, [2], [1, 3]), maps[:, [2]][:, :, [1, 3]])


def test_relevance_is_the_sum_of_head_maps(dec):
    maps = head_maps(dec, TEXTS, GRID)
    torch.testing.assert_close(relevance(dec, TEXTS, GRID), maps.sum((1, 2)))
    some = relevance(dec, TEXTS, GRID, layers=[0, -1], heads=[1])
    torch.testing.assert_close(some, maps[:, [0, 2], 1].sum(1))


def test_relevance_minus_other_texts(dec):
    maps = relevance(dec, TEXTS, GRID)
    found = relevance(dec, TEXTS[:1], GRID, minus=TEXTS)
    torch.testing.assert_close(found[..., 0], maps[..., 0] - maps.mean(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [head_maps, relevance])
def test_token_maps_name_what_is_wrong(method, dec, model, images):
    with pytest.raises(SettingError, match=r"\[text, 24\], not \[3, 23\]"):
        method(dec, TEXTS[:, 1:], GRID)
    with pytest.raises(SettingError, match=r"\[text, 24\], not \[0, 24\]"):
        method(dec, TEXTS[:0], GRID)
    broken = TEXTS.clone()
    broken[1, 3] = torch.nan
    with pytest.raises(SettingError, match=r"Text features \[1\] are not finite"):
        method(dec, broken, GRID)
    with pytest.raises(SettingError, match="no head L9H0"):
        method(dec, TEXTS, GRID, layers=[9])
    with pytest.raises(SettingError, match="tokens=True"):
        method(model.decompose(images), TEXTS, GRID)


def test_relevance_needs_a_head_and_texts_to_subtract(dec):
    with pytest.raises(SettingError, match="no heads to sum"):
        relevance(dec, TEXTS, GRID, layers=[])
    with pytest.raises(SettingError, match=r"\[text, 24\], not \[3, 5\]"):
        relevance(dec, TEXTS, GRID, minus=TEXTS[:, :5])


def test_one_image_is_enough(model, images):
    torch.testing.assert_close(rollout(model, images[:1]), rollout(model, images)[:1])
    assert attention_between(model, images[:1]).values.isfinite().all()


def test_upsample_keeps_constants_and_corners():
    maps = torch.arange(4.0).reshape(1, 1, 2, 2)
    smooth = upsample(maps, (4, 4))
    assert smooth.shape == (1, 1, 4, 4)
    assert smooth[0, 0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert upsample(maps, (4, 4), mode="nearest")[0, 0, 0].tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(upsample(torch.full((3, 2, 5, 4, 4), 0.7), (9, 7)), torch.full((3, 2, 5, 9, 7), 0.7))
    with pytest.raises(SettingError, match="bilinear, bicubic or nearest, not 'cubic'"):
        upsample(maps, (4, 4), mode="cubic")
    with pytest.raises(SettingError, match=r"\[..., row, column\], not \[4\]"):
        upsample(maps.flatten(), (4, 4))
