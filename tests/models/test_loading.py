"""Models from names, files of weights and live modules."""

import logging

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import clip_decomp
from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import load


def test_a_name_alone_gives_random_weights(named, arch):
    model = load(arch)
    assert isinstance(model, HookedCLIP)
    assert model.name == arch
    assert (model.visual.n_layers, model.visual.d_embed) == (2, 16)
    assert model.mean == open_clip.OPENAI_DATASET_MEAN
    assert not any(module.training for module in model.clip.modules())
    assert model.encode_text(["a fig"]).shape == (1, 16)
    assert clip_decomp.load is load


def test_a_real_name_is_loaded():
    model = load("ViT-B-32")
    assert repr(model) == "HookedCLIP('ViT-B-32', 12 layers of 12 heads, d_embed=512)"


def save_safetensors(state, file):
    save_file(state, file)


def save_pickle(state, file):
    torch.save(state, file)


@pytest.mark.parametrize(
    ("wrap", "save", "name"),
    [
        (lambda s: s, save_safetensors, "w.safetensors"),
        (lambda s: s, save_pickle, "w.pt"),
        (lambda s: s, save_pickle, "w.bin"),
        (lambda s: s, save_pickle, "weights"),
        (lambda s: {"module." + key: value for key, value in s.items()}, save_safetensors, "w.safetensors"),
        (lambda s: {"state_dict": s, "epoch": 3, "name": "run"}, save_pickle, "w.pt"),
        (lambda s: {"model": s}, save_pickle, "w.pth"),
        (lambda s: {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in s.items()}}, save_pickle, "w.pt"),
    ],
    ids=["safetensors", "pt", "bin", "no suffix", "module.", "state_dict", "model", "state_dict of module."],
)
def test_files_are_loaded_without_their_wrappers(
    wrap, save, name, named, state, picture, tmp_path, arch, same_features
):
    save(wrap(state), tmp_path / name)
    model = load(arch, pretrained=tmp_path / name)
    assert same_features(model, named, picture)
    assert all(torch.equal(value, state[key]) for key, value in model.clip.state_dict().items())
    assert same_features(load(arch, pretrained=str(tmp_path / name)), named, picture)


def test_half_precision_files_are_loaded_in_full_precision(named, state, picture, tmp_path, arch):
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "w.safetensors")
    model = load(arch, pretrained=tmp_path / "w.safetensors")
    assert {value.dtype for value in model.clip.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model.encode_image(picture), named.encode_image(picture), rtol=0.05, atol=0.02)


def test_quick_gelu_is_never_guessed_silently(named, state, picture, tmp_path, caplog, arch, same_features):
    save_file(state, tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING, logger="clip_decomp"):
        load(arch, pretrained=tmp_path / "w.safetensors")
    assert "does not say whether it was trained with QuickGELU; assuming GELU" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="clip_decomp"):
        quick = load(arch, pretrained=tmp_path / "w.safetensors", quick_gelu=True)
        plain = load(arch, pretrained=tmp_path / "w.safetensors", quick_gelu=False)
    assert "QuickGELU" not in caplog.text
    assert not same_features(quick, named, picture)
    assert same_features(plain, named, picture)


def test_a_live_model_is_hooked_as_it_is(named, picture, same_features):
    model = load(named)
    assert model.clip is named
    assert model.name == "CLIP"
    assert same_features(model, named, picture)
    words = load(named, tokenizer=lambda texts: torch.zeros(len(texts), 77, dtype=torch.long))
    assert words.tokenizer(["x"]).sum() == 0


def test_a_live_model_keeps_its_own_normalization(named):
    named.visual.image_mean, named.visual.image_std = (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)
    model = load(named)
    assert (model.mean, model.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


def test_a_live_model_in_training_mode_is_refused(named):
    named.visual.transformer.resblocks[1].train()
    with pytest.raises(ModelError, match=r"training mode \(visual\.transformer\.resblocks\.1\): call model\.eval\(\)"):
        load(named)
    named.train()
    with pytest.raises(ModelError, match=r"training mode \(at its root\)"):
        load(named)
    assert named.training


def test_a_live_module_that_is_no_clip_is_refused():
    with pytest.raises(ModelError, match=r"Linear is not an open_clip model: it needs \.visual"):
        load(torch.nn.Linear(2, 2).eval())


def test_unknown_names_suggest_near_ones():
    with pytest.raises(ModelError, match=r"no model 'ViT-B-23'.*did you mean \[.*'ViT-B-32'"):
        load("ViT-B-23")
    with pytest.raises(ModelError, match=r"no model 'qqqqqqqq'.*clip-decomp zoo list"):
        load("qqqqqqqq")


def test_unknown_tags_are_refused():
    with pytest.raises(ModelError, match="open_clip cannot load 'ViT-B-32' with weights 'no-such-tag'"):
        load("ViT-B-32", pretrained="no-such-tag")
