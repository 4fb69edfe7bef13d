"""Activation and pixel normalization: detected or demanded, never guessed."""

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.models.loading import load
from clip_decomp.models.loading.stated import Normalization, activation, normalization, published_normalizations

OPENAI = Normalization(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def published(arch, monkeypatch):
    """Publishes the tiny architecture's weights under a tag, without a network."""

    def publish(state, tmp_path, name=arch, **config):
        file = tmp_path / "published.safetensors"
        save_file(state, file)
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"tag": {"url": "", "hf_hub": "", **config}})
        monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *args, **kwargs: str(file))
        return name

    return publish


@pytest.fixture
def quick_variant(arch, monkeypatch):
    """A second name of the tiny architecture, with QuickGELU."""
    name = f"{arch}-quickgelu"
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, name, {**open_clip.get_model_config(arch), "quick_gelu": True}
    )
    return name


def is_quick(model):
    found = [isinstance(module, QuickGELU) for module in model.clip.modules()]
    plain = [isinstance(module, torch.nn.GELU) for module in model.clip.modules()]
    assert any(found) != any(plain)
    return any(found)


@pytest.mark.parametrize("quick", [True, False])
def test_a_tag_says_the_activation(quick, published, arch, state, tmp_path):
    published(state, tmp_path, quick_gelu=quick)
    assert is_quick(load(arch, pretrained="tag")) == quick
    assert is_quick(load(arch, pretrained="tag", quick_gelu=quick)) == quick
    said, asked = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    with pytest.raises(ModelError, match=rf"tag 'tag' of {arch} says {said}, but quick_gelu={not quick} says {asked}"):
        load(arch, pretrained="tag", quick_gelu=not quick)


def test_a_name_and_a_tag_that_disagree_are_refused(published, quick_variant, state, tmp_path):
    published(state, tmp_path, name=quick_variant, quick_gelu=False)
    with pytest.raises(ModelError, match="says GELU, but the name 'tiny-for-tests-quickgelu' says QuickGELU"):
        load(quick_variant, pretrained="tag")


def test_a_file_of_a_name_that_exists_with_both_needs_an_answer(quick_variant, arch, state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"exists with QuickGELU and with GELU.*quick_gelu=True .* quick_gelu=False"):
        load(arch, pretrained=tmp_path / "w.safetensors")
    assert is_quick(load(arch, pretrained=tmp_path / "w.safetensors", quick_gelu=True))
    assert not is_quick(load(arch, pretrained=tmp_path / "w.safetensors", quick_gelu=False))
    assert is_quick(load(quick_variant, pretrained=tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match="name 'tiny-for-tests-quickgelu' says QuickGELU, but quick_gelu=False"):
        load(quick_variant, pretrained=tmp_path / "w.safetensors", quick_gelu=False)


def test_a_tag_says_the_normalization(published, arch, state, tmp_path):
    published(state, tmp_path, mean=HALF[0], std=HALF[1])
    model = load(arch, pretrained="tag")
    assert (model.mean, model.std) == HALF
    assert load(arch, pretrained="tag", mean=HALF[0]).mean == HALF[0]
    with pytest.raises(
        ModelError, match=r"says mean=\(0\.5, 0\.5, 0\.5\), but mean=\(0\.4, 0\.5, 0\.5\) was asked for"
    ):
        load(arch, pretrained="tag", mean=(0.4, 0.5, 0.5))
    with pytest.raises(ModelError, match=r"says std=\(0\.5, 0\.5, 0\.5\), but std="):
        load(arch, pretrained="tag", std=OPENAI.std)


def test_a_file_takes_the_normalization_that_all_published_weights_share(published, arch, state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    assert load(arch, pretrained=tmp_path / "w.safetensors").mean == OPENAI.mean
    published(state, tmp_path, mean=HALF[0], std=HALF[1])
    assert load(arch, pretrained=tmp_path / "w.safetensors").mean == HALF[0]
    own = load(arch, pretrained=tmp_path / "w.safetensors", mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1, 1, 1))


def test_a_file_of_weights_that_are_published_with_several_normalizations_needs_an_answer():
    assert set(published_normalizations("ViT-L-14")) == {OPENAI, Normalization(*HALF)}
    with pytest.raises(
        ModelError, match=r"ViT-L-14 want.*my\.pt does not say how: pass mean= and std=, mean=\(.*or mean"
    ):
        normalization("ViT-L-14", None, None, None, "my.pt")
    with pytest.raises(ModelError, match="ViT-L-14 want"):
        normalization("ViT-L-14", None, OPENAI.mean, None, "my.pt")
    assert normalization("ViT-L-14", None, *HALF, "my.pt") == Normalization(*HALF)
    assert normalization("ViT-B-32", None, None, None, "my.pt") == OPENAI
    assert normalization("ViT-B-16-SigLIP", None, None, None, "my.pt") == Normalization(*HALF)


def test_published_tags_of_both_activations_need_an_answer():
    for name in ("ViT-B-32", "ViT-L-14", "RN50"):
        with pytest.raises(ModelError, match=f"{name} exists with QuickGELU and with GELU"):
            activation(name, None, None)
    assert activation("ViT-B-16-SigLIP", None, None) is None
    assert activation("ViT-B-32-quickgelu", None, None) is True


@pytest.mark.parametrize(
    "wrong", [{"mean": (0.5, 0.5)}, {"mean": (0.5, 0.5, float("nan"))}, {"std": (0.0, 1, 1)}, {"std": (-1.0, 1, 1)}]
)
def test_normalizations_that_are_none_are_refused(wrong, arch):
    with pytest.raises(SettingError, match="a finite number for each of the three colors, and deviations above 0"):
        load(arch, **wrong)


def test_shipped_and_live_models_say_it_themselves(named):
    assert load("world/clean", quick_gelu=False).name == "world/clean"
    with pytest.raises(ModelError, match="world/clean says its activation"):
        load("world/clean", quick_gelu=True)
    with pytest.raises(ModelError, match=r"card\.json says mean="):
        load("world/clean", mean=(0.9, 0.9, 0.9))
    with pytest.raises(ModelError, match="A live model has its activation and image size already"):
        load(named, quick_gelu=True)
    named.visual.image_mean = named.visual.image_std = (0.5, 0.5, 0.5)
    with pytest.raises(ModelError, match=r"CLIP says std=\(0\.5"):
        load(named, std=(0.1, 0.1, 0.1))
