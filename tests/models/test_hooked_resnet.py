"""ResNet towers: the same numbers as open_clip's, hooks, folders, training, and what they refuse."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import load_file, save_file
from torch import nn

from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.decompose import decompose
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.evaluation import evaluate
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_resnet import HookedResNet
from clip_decomp.models.loading import CARD, WEIGHTS, load, save_folder
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.training.trainer import TrainSettings, train

HOOKS = ["hook_stem", "hook_layer1", "hook_layer2", "hook_layer3", "hook_layer4", "hook_attnpool"]
TINY = Architecture(
    embed_dim=16, layers=(1, 2, 1, 1), width=4, heads=2, context_length=16, vocab_size=300,
    text_layers=1, text_width=16, text_heads=2,
)  # fmt: skip


@pytest.fixture
def pictures():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(tokenizer, randomize, pictures):
    """A tiny model whose batch norms have met pictures."""
    clip = randomize(build(TINY, seed=0))
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.7
    with torch.no_grad():
        clip.train().encode_image(pictures)
    card = {
        "architecture": TINY.to_dict(),
        "tokenizer": json.loads(tokenizer.to_json()),
        "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3},
    }
    return HookedCLIP(clip.eval(), tokenizer, (0.5,) * 3, (0.25,) * 3, name="tiny", card=card)


def test_the_output_is_the_towers_and_hook_points_are_named(model, pictures):
    assert isinstance(model.visual, HookedResNet)
    assert sorted(model.visual.hook_dict) == sorted(HOOKS)
    assert (model.visual.image_size, model.visual.d_embed, model.visual.stages) == (64, 16, (1, 2, 1, 1))
    found, cache = model.visual.run_with_cache(pictures)
    assert torch.equal(found, model.clip.encode_image(pictures))
    assert [tuple(cache[name].shape[1:]) for name in HOOKS] == [
        (4, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2), (16,),
    ]  # fmt: skip
    tower = model.clip.visual
    expected = tower.layer3(tower.layer2(tower.layer1(tower.stem(pictures))))
    torch.testing.assert_close(cache["hook_layer3"], expected)
    torch.testing.assert_close(model.encode_image(pictures[1:3]), found[1:3], rtol=1e-5, atol=1e-6)


def test_an_attached_hook_changes_the_output_and_is_gone_afterwards(model, pictures):
    before = model.encode_image(pictures)
    with model.visual.hooks(fwd_hooks=[("hook_layer2", lambda value, hook: 0 * value)]):
        assert not torch.allclose(model.encode_image(pictures), before)
    assert torch.equal(model.encode_image(pictures), before)
    assert not model.visual.list_hooks()


def test_repr_says_what_the_tower_is(model):
    assert repr(model) == "HookedCLIP('tiny', ResNet stages of 1, 2, 1, 1 blocks, d_embed=16)"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 64, 32), r"Images must be \[batch, 3, 64, 64\], not \[2, 3, 64, 32\]"),
        (torch.zeros(3, 64, 64), "pass them through model.preprocess first"),
        (torch.zeros(1, 1, 64, 64), r"not \[1, 1, 64, 64\]"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "normalized floats, not torch.uint8"),
    ],
)
def test_images_of_another_kind_are_refused(images, message, model):
    with pytest.raises(SettingError, match=message):
        model.encode_image(images)


def test_norms_in_training_mode_are_refused_and_left_alone(model, pictures, unchanged):
    same = unchanged(model.clip)
    model.clip.visual.layer2.train()
    with pytest.raises(ModelError, match=r"image tower\.layer2\.0\.bn1 is in training mode: call \.eval\(\)"):
        model.encode_image(pictures)
    assert same()


def test_what_needs_heads_is_refused(model, pictures):
    for refused in (
        lambda: model.decompose(pictures),
        lambda: decompose(model.visual, pictures),
        lambda: model.head(0, 0),
        lambda: model.visual.n_layers,
        lambda: model.visual.n_heads,
        lambda: model.visual.blocks,
        lambda: model.visual.d_model,
        lambda: model.visual.grid,
    ):
        with pytest.raises(ModelError, match="ResNet, which is no sum of heads and MLPs"):
            refused()


def test_zero_shot_and_evaluation_work(model, pictures):
    names = ["apple", "fig"]
    logits = model.zero_shot(pictures, names)
    texts = model.encode_text([f"a photo of a {name}." for name in names], normalize=True)
    images = F.normalize(model.clip.encode_image(pictures), dim=-1)
    torch.testing.assert_close(logits, model.logit_scale * images @ texts.T, rtol=1e-4, atol=1e-4)
    pixels = torch.randint(256, (6, 3, 64, 64), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    found = evaluate(model, ImageSet("toy", tuple(names), torch.arange(6) % 2, TensorSource(pixels), target="fig"))
    assert found.clean_accuracy.count == 6


def test_folders_keep_the_norms_statistics_in_full_precision(model, pictures, tmp_path):
    norm = model.clip.visual.layer3[0].bn2
    norm.running_var[:2] = torch.tensor([1e-9, 1e6])  # zero and infinity in float16
    save_folder(model, tmp_path, {"name": "tiny"})
    stored = load_file(tmp_path / WEIGHTS)
    kinds = {key: value.dtype for key, value in stored.items() if "bn2" in key and "layer3" in key}
    assert set(kinds.values()) == {torch.float16, torch.float32, torch.int64}
    again = load(tmp_path)
    for (name, kept), found in zip(model.clip.named_buffers(), again.clip.buffers(), strict=True):
        assert torch.equal(kept, found), name
    assert again.clip.visual.bn1.num_batches_tracked == 1
    assert again.card["architecture"]["layers"] == [1, 2, 1, 1]
    close = F.cosine_similarity(again.encode_image(pictures), model.encode_image(pictures))
    assert close.min() > 0.999
    save_folder(again, tmp_path, again.card)  # on top of itself
    assert torch.equal(load(tmp_path).encode_image(pictures), again.encode_image(pictures))


def test_unusable_weights_and_cards_are_refused(model, tmp_path):
    save_folder(model, tmp_path, {"name": "tiny"}, half=False)
    card = json.loads((tmp_path / CARD).read_text())
    state = load_file(tmp_path / WEIGHTS)
    for key, value, message in (
        ("visual.bn1.running_var", -1.0, "bn1.running_var holds negative variances"),
        ("visual.bn1.running_mean", float("nan"), "bn1.running_mean holds NaN"),
    ):
        broken = {**state, key: torch.full_like(state[key], value)}
        save_file(broken, tmp_path / WEIGHTS)
        (tmp_path / CARD).write_text(json.dumps({**card, "sha256": None}))
        with pytest.raises(ModelError, match=message):
            load(tmp_path)
    for layers in ([1, 2, 1], [1, 2, 1, 0], "abcd", None, [1, 2, 1, 1.5], 2):
        (tmp_path / CARD).write_text(json.dumps({**card, "architecture": {**card["architecture"], "layers": layers}}))
        with pytest.raises(ModelError):
            load(tmp_path)


def test_open_clips_own_models_load(tokenizer, pictures):
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, head_width=64, image_size=64)
    clip = CLIP(16, vision, CLIPTextCfg(context_length=16, vocab_size=300, width=16, heads=2, layers=1)).eval()
    model = load(clip, tokenizer=tokenizer)
    assert torch.equal(model.encode_image(pictures), clip.encode_image(pictures))
    with pytest.raises(ModelError, match="training mode"):
        load(clip.train())


def test_training_moves_the_norms_statistics_and_a_fine_tuned_copy_leaves_the_original(model):
    norm = model.clip.visual.layer1[0].bn1
    before = norm.running_mean.clone()
    tuned = copy.deepcopy(model.clip)
    settings = TrainSettings(steps=2, batch_size=4, lr=1e-3, muon_lr=1e-3, warmup=0)
    train(tuned, model.tokenizer, model.normalize, WorldPairs(seed=0), settings, progress=False)
    moved = tuned.visual.layer1[0].bn1
    assert not torch.equal(moved.running_mean, before)
    assert moved.running_mean.dtype == torch.float32
    assert (moved.num_batches_tracked, norm.num_batches_tracked) == (3, 1)
    assert torch.equal(norm.running_mean, before)
    assert not tuned.training  # as it was
    with pytest.raises(SettingError, match="Patches cannot be left out of a tower of type ModifiedResNet"):
        train(
            tuned, model.tokenizer, model.normalize, WorldPairs(seed=0),
            TrainSettings(steps=1, batch_size=4, patch_dropout=0.5), progress=False,
        )  # fmt: skip
