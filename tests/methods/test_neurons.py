"""Neurons add up to their MLP, and each writes what its activation says."""

import pytest
import torch

from clip_decomp.errors import SettingError
from clip_decomp.methods.neurons import decompose_neurons, neurons
from clip_decomp.model import HookedCLIP


@pytest.mark.parametrize("vision", [{}, {"ls_init_value": 0.5}], ids=["plain", "layer scale"])
def test_neurons_add_up_to_their_mlp(vision, make_clip, tokenizer, images):
    model = HookedCLIP(make_clip(**vision), tokenizer, (0.5,) * 3, (0.2,) * 3)
    dec, found = decompose_neurons(model, images, [0, 2])
    for each, layer in zip(found, (0, 2), strict=True):
        torch.testing.assert_close(each.sum(), dec.mlps[:, layer], rtol=1e-4, atol=1e-5)
        assert each.layer == layer
        assert each.writes.shape == (128, 24)


def test_switching_a_neuron_off_takes_its_contribution_out(model, images):
    found, before = neurons(model, images, 2), model.decompose(images)

    def off(post, hook):
        return post.index_fill(2, torch.tensor([17]), 0.0)

    with model.visual.hooks(fwd_hooks=[("blocks.2.mlp.hook_post", off)]):
        after = model.decompose(images)
    # The final norm's scale differs; without it the difference is the neuron alone.
    change = before.mlps[:, 2] / before.scale[:, None] - after.mlps[:, 2] / after.scale[:, None]
    torch.testing.assert_close(change * before.scale[:, None], found.contribution(17), rtol=1e-4, atol=1e-5)
    assert found.contribution(17).abs().max() > 1e-3


def test_projections_agree_with_vectors(model, images):
    found, texts = neurons(model, images, 1), torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    toward = found.toward(texts)
    assert toward.shape == (3, 128, 5)
    torch.testing.assert_close(toward[:, 40], found.contribution(40) @ texts.T, rtol=1e-4, atol=1e-5)
    (name, push), *rest = found.strongest(texts, 3)
    best = toward.mean((0, 2)).argmax()
    assert name == f"L1N{best}"
    assert push == pytest.approx(toward.mean((0, 2)).max().item())
    assert len(rest) == 2


def test_nothing_is_changed_and_no_hook_stays(model, images, unchanged):
    check, before = unchanged(model.clip), images.clone()
    neurons(model, images, 0)
    with pytest.raises(SettingError):
        neurons(model, images[:, :, :8], 0)
    assert check()
    assert torch.equal(images, before)
    assert not any(point.fwd_hooks for point in model.visual.hook_dict.values())


def test_what_is_not_there_is_refused(model, images):
    with pytest.raises(SettingError, match="no layer 3"):
        neurons(model, images, 3)
    found = neurons(model, images, 0)
    with pytest.raises(SettingError, match="no neuron L0N128: this MLP has 128"):
        found.contribution(128)
    with pytest.raises(SettingError, match=r"must be \[text, 24\], not \[2, 5\]"):
        found.toward(torch.zeros(2, 5))
