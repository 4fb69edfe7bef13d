"""Total effects: what patching open_clip's own modules by hand gives."""

import pytest
import torch

from clip_decomp.ablation import activation_means, total_ablation
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import SettingError
from clip_decomp.zeroshot import class_vectors, predict


@torch.no_grad()
def patched_by_hand(model, pixels, means_of, layers, over):
    """Representations when open_clip's own attention and MLP modules return their mean over clean pictures."""
    tower = model.clip.visual
    blocks = tower.transformer.resblocks
    seen = {}

    def remember(key):
        return lambda module, args, output: seen.update({key: output[0] if isinstance(output, tuple) else output})

    handles = [b.attn.register_forward_hook(remember(("heads", k))) for k, b in enumerate(blocks)]
    handles += [b.mlp.register_forward_hook(remember(("mlps", k))) for k, b in enumerate(blocks)]
    tower(model.normalize(means_of))
    for handle in handles:
        handle.remove()
    # Attention is linear in z, so the mean of its output is its output at the mean of z.
    means = {key: value.mean(0) for key, value in seen.items()}
    handles = []
    for layer in layers:
        if over in ("heads", "layers"):
            mean = means["heads", layer]
            hook = lambda module, args, output, mean=mean: (mean.expand_as(output[0]), None)  # noqa: E731
            handles.append(blocks[layer].attn.register_forward_hook(hook))
        if over in ("mlps", "layers"):
            mean = means["mlps", layer]
            hook = lambda module, args, output, mean=mean: mean.expand_as(output)  # noqa: E731
            handles.append(blocks[layer].mlp.register_forward_hook(hook))
    features = tower(model.normalize(pixels))
    for handle in handles:
        handle.remove()
    return features


SCHEMES = {
    "forward": [[0], [0, 1], [0, 1, 2]],
    "backward": [[0, 1, 2], [1, 2], [2]],
    "separate": [[0], [1], [2]],
}


@pytest.fixture
def many():
    """Pictures of ten classes, so that a change of features shows in the rates; and held-out ones."""
    generator = torch.Generator().manual_seed(5)
    names = tuple(f"class {k}" for k in range(10))

    def draw(count):
        coarse = torch.rand(count, 3, 4, 4, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, size=32).mul(255).to(torch.uint8)
        return ImageSet("many", names, torch.arange(count) % 10, TensorSource(pixels), target="class 3")

    return draw(60), draw(20)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("over", ["heads", "mlps", "layers"])
def test_total_effects_are_what_patching_by_hand_gives(over, scheme, model, many):
    data, held_out = many
    trigger = BadNet(share=0.5, seed=1)
    # Vectors near which the clean features lie, so that predictions are not all the same.
    pixels, labels = data.load()
    clean = pixels.float() / 255
    vectors = model.encode_image(model.normalize(clean[:10])).detach()
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
    means = activation_means(model, held_out, batch_size=6)
    sweep = total_ablation(model, data, trigger, means, vectors, 3, over, scheme, batch_size=16)

    bad, base = trigger(clean, torch.arange(60)), held_out.load()[0].float() / 255
    foreign = labels != 3
    for k, layers in enumerate([[], *SCHEMES[scheme]]):
        guess, bad_guess = (predict(patched_by_hand(model, each, base, layers, over), vectors) for each in (clean, bad))
        expected = (
            (guess == labels).float().mean().item(),
            (bad_guess[foreign] == 3).float().mean().item(),
            (bad_guess == labels).float().mean().item(),
        )
        found = (
            sweep.baseline
            if k == 0
            else (sweep.clean_accuracy[k - 1], sweep.attack_success_rate[k - 1], sweep.poisoned_accuracy[k - 1])
        )
        assert found == pytest.approx(expected, abs=1e-6)
    assert len({sweep.baseline[0], *sweep.clean_accuracy}) > 1  # patching did something
    assert (sweep.effect, sweep.layers, sweep.count, sweep.triggered_count) == ("total", (0, 1, 2), 60, 54)
    assert not model.visual.list_hooks()


def test_activation_means_are_means_of_activations(model, toy, unchanged):
    same = unchanged(model.clip)
    means = activation_means(model, toy, batch_size=7)
    _, cache = model.visual.run_with_cache(model.normalize(toy.load()[0].float() / 255))
    for layer in range(3):
        torch.testing.assert_close(means.z[layer], cache[f"blocks.{layer}.attn.hook_z"].mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            means.mlp_out[layer], cache[f"blocks.{layer}.hook_mlp_out"].mean(0), rtol=1e-4, atol=1e-5
        )
    assert same()
    assert not model.visual.list_hooks()


def test_patching_a_picture_with_itself_changes_nothing(model, toy, nothing):
    one = toy.subset(torch.tensor([2]))
    vectors = class_vectors(model, toy.class_names)
    means = activation_means(model, one)
    for over in ("heads", "mlps", "layers"):
        sweep = total_ablation(model, one, nothing, means, vectors, 3, over, "forward")
        assert set(sweep.clean_accuracy) == {sweep.baseline[0]}
        assert set(sweep.attack_success_rate) == {sweep.baseline[1]}


def test_total_effects_refuse_wrong_settings(model, toy, nothing):
    vectors = class_vectors(model, toy.class_names)
    means = activation_means(model, toy)
    with pytest.raises(SettingError, match="not 'tokens'"):
        total_ablation(model, toy, nothing, means, vectors, 3, "tokens")
    with pytest.raises(SettingError, match="not 'up'"):
        total_ablation(model, toy, nothing, means, vectors, 3, "heads", "up")
    with pytest.raises(SettingError, match="out of range"):
        total_ablation(model, toy, nothing, means, vectors, 4)
