"""Reading tokens, attention and projections from a decomposition."""

import pytest
import torch

from clip_decomp.convention import EXACT, PAPER
from clip_decomp.decompose import decompose
from clip_decomp.errors import SettingError
from clip_decomp.models.hooked_vit import HookedViT


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


def test_attention_is_the_class_tokens_row_of_the_pattern(model, images):
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    _, cache = model.visual.run_with_cache(images, names_filter=names)
    rows = torch.stack([cache[name][:, :, 0] for name in names], dim=1)
    dec = model.decompose(images)
    torch.testing.assert_close(dec.attention, rows)
    torch.testing.assert_close(dec.attention.sum(-1), torch.ones(3, 3, 4))


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
