"""Rollout and attention between groups of tokens, on attention that is written down."""

import pytest
import torch

from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.methods.attention import attention_between, attention_maps, rollout, split_tokens
from clip_decomp.methods.patterns import group_attention

GRID = (4, 4)


def prompted(model, layers=(0,)):
    """Two further tokens from these layers on."""

    def append(x, hook):
        return torch.cat([x, torch.full_like(x[:, :2], 0.3)], dim=1)

    return model.visual.hooks(fwd_hooks=[(f"blocks.{k}.hook_resid_pre", append) for k in layers])


def test_rollout_of_uniform_attention(model, images, fixed):
    with fixed(lambda layer: torch.full((17, 17), 1 / 17)):
        flat = rollout(model, images, residual=0)
        mixed = rollout(model, images)
    torch.testing.assert_close(flat, torch.full((3, 17), 1 / 17))
    # After three layers the class token keeps 1/8 of itself; the rest is spread evenly.
    expected = torch.full((17,), (1 - 1 / 8) / 17)
    expected[0] += 1 / 8
    torch.testing.assert_close(mixed, expected.expand(3, -1))


def test_rollout_of_identity_attention_is_the_class_token(model, images, fixed):
    with fixed(lambda layer: torch.eye(17)):
        found = rollout(model, images, residual=0.3)
    assert torch.equal(found, torch.eye(17)[:1].expand(3, -1))


def test_rollout_follows_a_chain_from_the_last_layer_down(model, images, fixed):
    """The last layer's class token looks at token 2, whose layer 1 looks at token 9, whose layer 0 looks at token 5."""

    def chain(layer):
        pattern = torch.eye(17)
        source, goal = [(9, 5), (2, 9), (0, 2)][layer]
        pattern[source] = torch.eye(17)[goal]
        return pattern

    with fixed(chain):
        assert rollout(model, images, residual=0).argmax(1).tolist() == [5, 5, 5]
        assert rollout(model, images, residual=0, layers=[2]).argmax(1).tolist() == [2, 2, 2]
        assert rollout(model, images, residual=0, layers=[-1, 1]).argmax(1).tolist() == [9, 9, 9]


@pytest.mark.parametrize("residual", [0.0, 0.5, 0.8])
def test_rollout_is_the_product_of_full_matrices(residual, model, images):
    _, cache = model.visual.run_with_cache(images, names_filter=lambda name: name.endswith("hook_pattern"))
    product = torch.eye(17, dtype=torch.float64).expand(3, -1, -1)
    for layer in range(3):
        mean = cache[f"blocks.{layer}.attn.hook_pattern"].double().mean(1)
        step = residual * torch.eye(17, dtype=torch.float64) + (1 - residual) * mean
        product = step / step.sum(-1, keepdim=True) @ product
    found = rollout(model, images, residual=residual, batch_size=2)
    torch.testing.assert_close(found, product[:, 0].float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(3))


def test_rollout_discards_the_smallest_entries_of_each_row(model, images, fixed):
    row = torch.tensor([0.01] * 12 + [0.18, 0.16, 0.02, 0.26, 0.26])
    with fixed(lambda layer: row.expand(17, 17)):
        found = rollout(model, images, layers=[2], residual=0, discard=13 / 17)
    expected = torch.tensor([0.0] * 12 + [0.18, 0.16, 0.0, 0.26, 0.26]) / 0.86
    torch.testing.assert_close(found, expected.expand(3, -1))


def test_attention_between_groups_by_hand(model, images, fixed):
    pattern = torch.zeros(17, 17)
    pattern[0, 0], pattern[0, 1:] = 0.2, 0.05
    pattern[1:9, 0] = 1  # half of the patches look at the class token, half at themselves
    pattern[9:, 9:] = torch.eye(8)
    with fixed(lambda layer: pattern):
        found = attention_between(model, images, layers=[1, -1])
    assert (found.groups, found.layers) == (("class token", "patches"), (1, 2))
    torch.testing.assert_close(found.values, torch.tensor([[0.2, 0.8], [0.5, 0.5]]).expand(2, 4, 2, 2))
    torch.testing.assert_close(found.between("class token", "patches"), torch.full((2, 4), 0.8))
    frame = found.to_frame()
    assert frame.loc["L2H3", "patches to class token"] == pytest.approx(0.5)
    assert len(frame) == 8
    assert "patches to patches" in found._repr_html_()
    with pytest.raises(SettingError, match="no token group 'prompts'"):
        found.between("prompts", "patches")


def test_what_follows_the_patches_is_a_prompt(model, images):
    with prompted(model):
        _, cache = model.visual.run_with_cache(images, names_filter=lambda name: name.endswith("hook_pattern"))
        found = attention_between(model, images, batch_size=2)
        rolled = rollout(model, images)
        dec = model.decompose(images)
    assert found.groups == ("class token", "patches", "prompts")
    torch.testing.assert_close(found.values.sum(-1), torch.ones(3, 4, 3))
    pattern = cache["blocks.2.attn.hook_pattern"]
    expected = pattern[:, :, 17:, 1:17].sum(-1).mean((0, 2))
    torch.testing.assert_close(found.between("prompts", "patches")[2], expected, rtol=1e-4, atol=1e-6)
    assert rolled.shape == (3, 19)
    shares = split_tokens(dec.attention, GRID)
    torch.testing.assert_close(shares.prompts[:, 2], pattern[:, :, 0, 17:].sum(-1), rtol=1e-4, atol=1e-6)
    assert attention_maps(dec, GRID).shape == (3, 3, 4, 4, 4)


def test_layers_with_and_without_prompts_are_told_apart(model, images):
    with prompted(model, layers=[1]):
        with pytest.raises(SettingError, match=r"Only layers \[1, 2\] have prompts"):
            attention_between(model, images)
        rolled = rollout(model, images)
        assert rolled.shape == (3, 19)
        torch.testing.assert_close(rolled.sum(1), torch.ones(3))
        assert attention_between(model, images, layers=[1, 2]).groups[-1] == "prompts"


@pytest.mark.parametrize("method", [rollout, attention_between])
def test_full_patterns_refuse_what_they_cannot_use(method, model, images):
    broken = images.clone()
    broken[2, 0, 0, 0] = torch.inf
    with pytest.raises(DataError, match=r"Images \[2\] hold pixels that are not finite"):
        method(model, broken)
    with pytest.raises(DataError, match="no images"):
        method(model, images[:0])
    with pytest.raises(SettingError, match="no layer 3: this tower has 3"):
        method(model, images, layers=[3])
    with pytest.raises(SettingError, match="no layers"):
        method(model, images, layers=[])
    model.visual.tower.transformer.resblocks[1].mlp.train()
    with pytest.raises(ModelError, match=r"resblocks\.1\.mlp is in training mode"):
        method(model, images)


@pytest.mark.parametrize("setting", [{"residual": 1.1}, {"residual": -0.1}, {"discard": 1.0}, {"discard": -0.5}])
def test_rollout_settings_out_of_range(setting, model, images):
    with pytest.raises(SettingError, match="0 <= residual <= 1 and 0 <= discard < 1"):
        rollout(model, images, **setting)


@pytest.mark.parametrize("method", [rollout, attention_between])
def test_nothing_is_changed_and_no_hook_stays(method, model, images, unchanged):
    same, before = unchanged(model.clip), images.clone()
    output = model.encode_image(images)
    method(model, images)
    with pytest.raises(SettingError, match="Images must be"):
        method(model, images[..., 1:])

    def fail(x, hook):
        raise RuntimeError("in the middle")

    with (
        model.visual.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", fail)]),
        pytest.raises(RuntimeError, match="in the middle"),
    ):
        method(model, images)
    assert not model.visual.list_hooks()
    assert torch.equal(model.encode_image(images), output)
    assert torch.equal(images, before)
    assert same()


def test_what_a_group_attends_to(model, images, fixed):
    rows = torch.full((17, 17), 1 / 17)
    rows[0] = torch.eye(17)[9]  # the class token looks at token 9
    with fixed(lambda layer: rows):
        assert torch.equal(group_attention(model, images, "class token", -1), torch.eye(17)[9].expand(3, -1))
        torch.testing.assert_close(group_attention(model, images, "patches", 1), torch.full((3, 17), 1 / 17))
    with prompted(model, (2,)):
        found = group_attention(model, images, "prompts", 2)
        assert found.shape == (3, 19)
        torch.testing.assert_close(found.sum(1), torch.ones(3))
        with pytest.raises(SettingError, match="has no prompts"):
            group_attention(model, images, "prompts", 0)
    with pytest.raises(SettingError, match="choose from"):
        group_attention(model, images, "registers", 0)
