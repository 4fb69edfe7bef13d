"""Sizes of towers, as cards write them and as open_clip reads them."""

import json

import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet

from clip_decomp.errors import SettingError
from clip_decomp.training.architecture import Architecture, build, configuration

RESNET = Architecture(layers=(1, 2, 1, 1), width=8, heads=4)


@pytest.mark.parametrize("architecture", [Architecture(), Architecture(patch_size=16, width=256, heads=8), RESNET])
def test_cards_bring_architectures_back(architecture):
    assert Architecture(**json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_cards_without_towers_kind_are_transformers():
    card = {"embed_dim": 128, "image_size": 64, "patch_size": 8, "layers": 8, "width": 192, "heads": 12,
            "context_length": 32, "vocab_size": 619, "text_layers": 2, "text_width": 128, "text_heads": 4}  # fmt: skip
    assert Architecture(**card) == Architecture(vocab_size=619)
    assert not Architecture(**card).is_resnet


def test_a_tuple_of_layers_is_a_resnet():
    assert RESNET.is_resnet
    tower = build(RESNET, seed=0).visual
    assert isinstance(tower, ModifiedResNet)
    assert [len(stage) for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4)] == [1, 2, 1, 1]
    assert (tower.attnpool.num_heads, tower.attnpool.q_proj.in_features) == (4, 256)
    assert configuration(RESNET)["vision_cfg"] == {
        "layers": (1, 2, 1, 1), "width": 8, "head_width": 64, "image_size": 64,
    }  # fmt: skip


def test_resnets_keep_open_clips_initialization_and_are_seeded():
    first, again, other = (build(RESNET, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["visual.conv1.weight"], other["visual.conv1.weight"])
    assert torch.count_nonzero(first["visual.layer2.1.bn3.weight"]) == 0
    assert first["visual.attnpool.q_proj.weight"].std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert first["logit_scale"].item() == pytest.approx(2.3)


def test_channels_last_changes_no_numbers():
    clip = build(RESNET, seed=0).eval()
    assert clip.visual.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = clip.encode_image(images)
        clip.visual.to(memory_format=torch.contiguous_format)
        torch.testing.assert_close(clip.encode_image(images), found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": (1, 1, 1)}, "four stages"),
        ({"layers": (1, 1, 0, 1)}, "four stages"),
        ({"layers": (1, 1, 1.0, 1)}, "four stages"),
        ({"layers": "abcd"}, "four stages"),
        ({"layers": (1, 1, 1, 1), "width": 7, "heads": 1}, "7 must be even"),
        ({"layers": (1, 1, 1, 1), "width": 8, "heads": 3}, "Heads must divide widths"),
        ({"layers": (1, 1, 1, 1), "width": 8, "heads": 4, "image_size": 48}, "patches must divide the image"),
        ({"layers": 0}, "one layer or more"),
    ],
)
def test_impossible_sizes_are_refused(wrong, message):
    with pytest.raises(SettingError, match=message):
        Architecture(**wrong)
