"""Grad-CAM against computations by hand, through the libraries' own modules."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.methods.gradcam import gradcam, gradcam_resnet

TEXTS = torch.randn(3, 24, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def photographs():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def resnet(make_clip, photographs):
    """A tiny CLIP with a ResNet tower: 64 x 64 pixels, a 2 x 2 map. Its batch norms have met pictures."""
    clip = make_clip(layers=(1, 1, 1, 1), width=8, head_width=64, image_size=64)
    for module in clip.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        clip.train().encode_image(photographs)
    return clip.eval()


def by_hand(tower, images, texts, layer):
    """Grad-CAM at ``ln_1`` of a block, through open_clip's own modules, one picture and one text at a time."""
    maps = torch.zeros(len(images), 4, 4, len(texts))
    for i, image in enumerate(images):
        with torch.no_grad():
            x = tower.conv1(image[None]).flatten(2).transpose(1, 2)
            x = torch.cat([tower.class_embedding.expand(1, 1, -1), x], dim=1) + tower.positional_embedding
            x = tower.ln_pre(x)
            blocks = tower.transformer.resblocks
            for block in blocks[:layer]:
                x = block(x)
            normalized = blocks[layer].ln_1(x)
        normalized.requires_grad_()
        block = blocks[layer]
        y = x + block.attn(normalized, normalized, normalized, need_weights=False)[0]
        y = y + block.mlp(block.ln_2(y))
        for later in blocks[layer + 1 :]:
            y = later(y)
        representation = tower.ln_post(y)[0, 0] @ tower.proj
        for t, text in enumerate(texts):
            cosine = F.cosine_similarity(representation, text, dim=0)
            (slope,) = torch.autograd.grad(cosine, normalized, retain_graph=True)
            weights = slope[0, 1:].mean(0)
            maps[i, ..., t] = (normalized[0, 1:] @ weights).relu().reshape(4, 4).detach()
    return maps


@pytest.mark.parametrize("layer", [2, 0])
def test_vit_maps_are_those_by_hand(layer, model, images):
    found = gradcam(model, images, TEXTS, layer=layer, batch_size=2)
    expected = by_hand(model.clip.visual, images, TEXTS, layer)
    assert expected.max() > 0
    torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-3 * expected.max().item())
    with torch.no_grad():
        cosines = model.encode_image(images, normalize=True) @ F.normalize(TEXTS, dim=1).T
    torch.testing.assert_close(found.targets, cosines)
    assert (found.layer, found.place, found.of) == (layer, f"blocks.{layer}.ln1.hook_normalized", "cosine")


def test_the_last_layer_is_the_default_and_text_norms_do_not_matter(model, images):
    found = gradcam(model, images, TEXTS)
    assert found.layer == 2
    torch.testing.assert_close(gradcam(model, images, 7 * TEXTS, layer=-1).maps, found.maps)
    torch.testing.assert_close(gradcam(model, images[1:2], TEXTS[2:]).maps, found.maps[1:2, ..., 2:])


def test_logits_are_scaled_cosines(model, images):
    cosine, logit = (gradcam(model, images, TEXTS, of=of) for of in ("cosine", "logit"))
    scale = model.logit_scale.item()
    assert scale > 2
    torch.testing.assert_close(logit.maps, scale * cosine.maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(logit.targets, scale * cosine.targets)
    assert "logit" in logit.to_frame().columns


def test_frame_names_the_peak_of_each_map(model, images):
    found = gradcam(model, images, TEXTS)
    frame = found.to_frame()
    assert len(frame) == 9
    row = frame[(frame.image == 2) & (frame.text == 1)].iloc[0]
    picture = found.maps[2, ..., 1]
    assert picture[int(row.row), int(row.column)] == picture.max() == row.maximum
    assert row["cosine"] == pytest.approx(found.targets[2, 1].item())
    assert "maximum" in found._repr_html_()


@pytest.mark.parametrize("at", ["hook_resid_pre", "attn.hook_k", "attn.hook_v", "ln1.hook_normalized"])
def test_places_that_patches_are_read_from(at, model, images):
    found = gradcam(model, images, TEXTS, at=at)
    assert found.maps.shape == (3, 4, 4, 3)
    assert found.maps.any()


@pytest.mark.parametrize(
    "at", ["hook_resid_post", "hook_mlp_out", "hook_attn_out", "attn.hook_z", "attn.hook_q", "mlp.hook_post"]
)
def test_places_that_patches_do_not_leave_are_refused(at, model, images):
    with pytest.raises(SettingError, match=rf"Patches at blocks\.2\.{at} do not reach the representation"):
        gradcam(model, images, TEXTS, at=at)
    assert gradcam(model, images, TEXTS, layer=1, at=at).maps.any()
    assert not model.visual.list_hooks()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"at": "attn.hook_pattern"}, r"no tokens to map at 'attn.hook_pattern': choose from \['hook_resid_pre'"),
        ({"at": "nowhere"}, "no tokens to map at 'nowhere'"),
        ({"layer": 3}, "no layer 3: this tower has 3"),
        ({"of": "loss"}, "the cosine or the logit, not of 'loss'"),
        ({"text_features": TEXTS[:, 1:]}, r"\[text, 24\], not \[3, 23\]"),
        ({"text_features": torch.full((2, 24), torch.nan)}, r"Text features \[0, 1\] are not finite"),
        ({"text_features": TEXTS * torch.tensor([[1.0], [0.0], [1.0]])}, r"Text features \[1\] are zero"),
    ],
)
def test_settings_that_cannot_be_used(setting, message, model, images):
    with pytest.raises(SettingError, match=message):
        gradcam(model, images, **{"text_features": TEXTS, **setting})


def test_images_and_models_that_cannot_be_used(model, images):
    with pytest.raises(DataError, match="no images"):
        gradcam(model, images[:0], TEXTS)
    with pytest.raises(DataError, match=r"Images \[1\] hold pixels"):
        gradcam(model, images.index_fill(0, torch.tensor([1]), torch.nan), TEXTS)
    with pytest.raises(SettingError, match="Images must be"):
        gradcam(model, images[..., 1:], TEXTS)
    model.clip.train()
    with pytest.raises(ModelError, match="is in training mode"):
        gradcam(model, images, TEXTS)


def test_frozen_weights_and_callers_without_gradients(model, images):
    expected = gradcam(model, images, TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(gradcam(model, images, TEXTS).maps, expected.maps)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        torch.testing.assert_close(gradcam(model, images + 0, TEXTS + 0).maps, expected.maps)
    model.clip.requires_grad_(False)
    found = gradcam(model, images, TEXTS)
    torch.testing.assert_close(found.maps, expected.maps)
    assert not found.maps.requires_grad
    assert not found.targets.requires_grad
    assert not any(parameter.requires_grad for parameter in model.clip.parameters())


def test_nothing_is_changed_and_no_gradient_or_hook_stays(model, images, unchanged):
    same, pixels, texts = unchanged(model.clip), images.clone().requires_grad_(), TEXTS.clone().requires_grad_()
    output = model.encode_image(images)
    gradcam(model, pixels, texts)

    def fail(x, hook):
        raise RuntimeError("in the middle")

    with (
        model.visual.hooks(fwd_hooks=[("blocks.2.hook_mlp_out", fail)]),
        pytest.raises(RuntimeError, match="in the middle"),
    ):
        gradcam(model, pixels, texts)
    assert not model.visual.list_hooks()
    assert all(parameter.grad is None for parameter in model.clip.parameters())
    assert pixels.grad is None
    assert texts.grad is None
    assert torch.equal(pixels, images)
    assert torch.equal(texts, TEXTS)
    assert torch.equal(model.encode_image(images), output)
    assert same()


def test_prompts_are_left_out_of_the_map(model, images):
    def append(x, hook):
        return torch.cat([x, torch.full_like(x[:, :2], 0.3)], dim=1)

    with model.visual.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", append)]):
        found = gradcam(model, images, TEXTS)
    assert found.maps.shape == (3, 4, 4, 3)
    assert not torch.equal(found.maps, gradcam(model, images, TEXTS).maps)


@pytest.mark.parametrize(("layer", "stage"), [(-1, 4), (2, 3)])
def test_resnet_maps_are_those_by_hand(resnet, photographs, layer, stage):
    pytest.importorskip("captum")
    tower = resnet.visual
    found = gradcam_resnet(resnet, photographs, TEXTS, layer, batch_size=2)
    expected = torch.zeros(3, 2 ** (5 - stage), 2 ** (5 - stage), 3)
    signed = torch.zeros_like(expected)
    stages = [tower.layer1, tower.layer2, tower.layer3, tower.layer4]
    for i, image in enumerate(photographs):
        with torch.no_grad():
            activation = nn.Sequential(*stages[:stage])(tower.stem(image[None]))
        activation.requires_grad_()
        representation = tower.attnpool(nn.Sequential(*stages[stage:])(activation))[0]
        for t, text in enumerate(TEXTS):
            cosine = F.cosine_similarity(representation, text, dim=0)
            (slope,) = torch.autograd.grad(cosine, activation, retain_graph=True)
            signed[i, ..., t] = (activation * slope.mean((2, 3), keepdim=True)).sum(1)[0].detach()
            expected[i, ..., t] = signed[i, ..., t].relu()
            assert found.targets[i, t].item() == pytest.approx(cosine.item(), abs=1e-5)
    assert expected.any()
    assert (signed < 0).any()
    torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-3 * expected.max().item())
    assert (found.layer, found.place) == (stage - 1, f"layer{stage}")


def test_resnet_logits_frozen_weights_and_no_grad(resnet, photographs, unchanged):
    pytest.importorskip("captum")
    cosine = gradcam_resnet(resnet, photographs, TEXTS)
    resnet.requires_grad_(False)
    same, before = unchanged(resnet), photographs.clone()
    with torch.no_grad():
        logit = gradcam_resnet(resnet, photographs, TEXTS, of="logit")
    torch.testing.assert_close(logit.maps, resnet.logit_scale.exp() * cosine.maps, rtol=1e-4, atol=1e-7)
    assert same()
    assert torch.equal(photographs, before)
    assert not photographs.requires_grad
    assert all(parameter.grad is None for parameter in resnet.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in resnet.modules())


def test_resnet_hooks_are_gone_after_an_exception(resnet, photographs):
    pytest.importorskip("captum")

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the middle")

    resnet.visual.attnpool = Broken().eval()
    with pytest.raises(RuntimeError, match="in the middle"):
        gradcam_resnet(resnet, photographs, TEXTS)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in resnet.modules())


def test_resnet_refuses_what_it_cannot_use(resnet, photographs, make_clip):
    pytest.importorskip("captum")
    with pytest.raises(ModelError, match="VisionTransformer is no ModifiedResNet"):
        gradcam_resnet(make_clip(), photographs, TEXTS)
    with pytest.raises(SettingError, match="There is no stage 4: this tower has 4"):
        gradcam_resnet(resnet, photographs, TEXTS, 4)
    with pytest.raises(SettingError, match=r"Images must be \[batch, 3, 64, 64\], not \[3, 3, 64, 32\]"):
        gradcam_resnet(resnet, photographs[..., :32], TEXTS)
    with pytest.raises(DataError, match="no images"):
        gradcam_resnet(resnet, photographs[:0], TEXTS)
    with pytest.raises(SettingError, match=r"\[text, 24\]"):
        gradcam_resnet(resnet, photographs, TEXTS[:, :5])
    resnet.visual.layer2.train()
    with pytest.raises(ModelError, match=r"layer2 is in training mode"):
        gradcam_resnet(resnet, photographs, TEXTS)


def test_resnet_without_captum_says_what_to_install(resnet, photographs, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ModelError, match="pip install captum"):
        gradcam_resnet(resnet, photographs, TEXTS)
