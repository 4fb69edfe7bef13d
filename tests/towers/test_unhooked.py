"""Towers that are no plain vision transformers: they encode, say what they are, and refuse the rest."""

import pytest
import torch
from open_clip.timm_model import TimmModel

from clip_decomp.decompose import decompose, observe
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.methods.gradcam import gradcam
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.models.hooking import drops, hook
from clip_decomp.models.recording import Record
from clip_decomp.models.unhooked import UnhookedTower
from clip_decomp.prompts import DeepVisualPrompts

from .shrinking import randomize
from .test_use import TowerOnly


@pytest.fixture(scope="module")
def visual():
    return randomize(TimmModel("resnet18", 24, 32, pool="avg", proj="linear"))


@pytest.fixture
def model(visual):
    clip = TowerOnly(visual).eval()
    return HookedCLIP(clip, lambda texts: torch.zeros(len(texts), 1), (0.5,) * 3, (0.5,) * 3, name="plain")


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_it_encodes_as_the_original_and_has_one_hook_point(model, visual, images):
    assert isinstance(model.visual, UnhookedTower)
    assert torch.equal(model.encode_image(images), visual(images))
    assert (model.visual.image_size, model.visual.d_embed) == (32, 24)
    assert set(model.visual.hook_dict) == {"hook_features"}
    edited = model.visual.run_with_hooks(images, fwd_hooks=[("hook_features", lambda x, hook: 2 * x)])
    assert torch.equal(edited, 2 * visual(images))
    assert {id(each) for each in model.visual.parameters()} == {id(each) for each in visual.parameters()}
    assert repr(model) == "HookedCLIP('plain', ResNet, d_embed=24)"


def test_what_needs_parts_is_refused_and_says_what_works(model, images):
    for refused in (
        lambda: model.decompose(images),
        lambda: decompose(model.visual, images),
        lambda: observe(model.visual, images),
        lambda: model.visual(images, Record()),
        lambda: gradcam(model, images, torch.ones(1, 24)),
        lambda: model.head(0, 0),
        lambda: model.visual.n_layers,
        lambda: model.visual.n_heads,
        lambda: model.visual.blocks,
        lambda: model.visual.d_model,
        lambda: model.visual.grid,
    ):
        with pytest.raises(
            ModelError, match=r"type ResNet is no plain vision transformer.*zero-shot evaluation.* work"
        ):
            refused()
    with pytest.raises(ModelError, match="UnhookedTower of plain has none"):
        DeepVisualPrompts(model, 1, [0])


def test_images_and_modes_are_checked(model, visual, images):
    with pytest.raises(SettingError, match=r"Images must be \[batch, 3, 32, 32\], not \[2, 3, 16, 16\]"):
        model.encode_image(images[..., :16, :16])
    visual.trunk.bn1.train()
    try:
        with pytest.raises(ModelError, match=r"image tower\.trunk\.bn1 is in training mode"):
            model.encode_image(images)
    finally:
        visual.eval()


def test_a_tower_that_does_not_say_its_size_is_refused():
    with pytest.raises(ModelError, match="type Linear does not say how large its pictures are"):
        hook(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dynamic_img_size": True}, "images of many sizes"),
        ({"global_pool": "max"}, "global_pool='max' has no linear readout"),
        ({"final_norm": True, "qk_norm": True, "attn_layer": "diff"}, "DiffAttention is not supported"),
        ({"norm_layer": "rmsnorm"}, "only layer norms with a gain"),
    ],
)
def test_transformers_of_other_kinds_say_which(options, reason, monkeypatch):
    import timm

    create = timm.create_model
    small = {"depth": 1, "embed_dim": 32, "num_heads": 4, "img_size": 32, **options}
    monkeypatch.setattr(timm, "create_model", lambda name, **own: create(name, **{**own, **small}))
    visual = TimmModel("vit_tiny_patch16_224", 8, 32, pool=options.get("global_pool", "token"), proj="")
    with pytest.raises(ModelError, match=reason):
        HookedViT(visual.eval())
    assert isinstance(hook(visual), UnhookedTower)


def test_random_dropping_is_noticed(visual):
    assert not drops(visual)
    assert drops(torch.nn.Sequential(torch.nn.Dropout(0.1)))
    assert not drops(torch.nn.Sequential(torch.nn.Dropout(0.0)))
    assert drops(TimmModel("vit_tiny_patch16_224", 8, pool="token", proj="", drop_path=0.1))
