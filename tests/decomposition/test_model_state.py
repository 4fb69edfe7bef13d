"""Decompositions and the model's hooks, mode, weights and gradients."""

import pytest
import torch

from clip_decomp.errors import ModelError

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
def test_the_sum_stays_exact_under_hooks_on_components(name, model, images, gap):
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
