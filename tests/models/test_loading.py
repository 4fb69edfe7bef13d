"""Models from names, files of weights and live modules."""

import logging
from collections import OrderedDict

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import clip_decomp
from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import load
from clip_decomp.models.loading.texts import tokenizer_of


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


def training_checkpoint(state):
    parameters = [torch.nn.Parameter(value.clone()) for value in state.values() if value.is_floating_point()]
    optimizer = torch.optim.AdamW(parameters)
    sum(value.square().sum() for value in parameters).backward()
    optimizer.step()
    return {"epoch": 3, "name": "run", "state_dict": OrderedDict(state), "optimizer": optimizer.state_dict()}


def backdoor_bench(state):
    poisoned = {"bd_dataset_save_folder": "bd", "poison_indicator": torch.zeros(4)}
    return {"model_name": "clip", "num_classes": 10, "model": state, "img_size": (32, 32, 3), "bd_train": poisoned}


def openai_layout(state):
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return {**state, **{key: torch.tensor(value) for key, value in sizes.items()}, "attn_mask": torch.zeros(77, 77)}


def custom_layout(state):
    text = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")
    return {f"text.{key}" if key.startswith(text) else key: value for key, value in state.items()}


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
        (lambda s: {"module._orig_mod." + key: value for key, value in s.items()}, save_pickle, "w.pt"),
        (lambda s: {key.replace("visual.", "visual._orig_mod."): v for key, v in s.items()}, save_pickle, "w.pt"),
        (lambda s: {"module": {"module.module." + key: v for key, v in s.items()}, "lr": 0.1}, save_pickle, "w.pt"),
        (lambda s: {"state_dict": {"model.clip." + k: v for k, v in s.items()}}, save_pickle, "w.ckpt"),
        (lambda s: {"model": {"model_state_dict": s, "step": 1}}, save_pickle, "w.pt"),
        (training_checkpoint, save_pickle, "epoch_3.pt"),
        (backdoor_bench, save_pickle, "attack_result.pt"),
        (openai_layout, save_pickle, "w.pt"),
        (custom_layout, save_safetensors, "w.safetensors"),
    ],
    ids=[
        "safetensors",
        "pt",
        "bin",
        "no suffix",
        "module.",
        "state_dict",
        "model",
        "state_dict of module.",
        "compiled",
        "compiled tower",
        "module of module.",
        "lightning",
        "nested",
        "training",
        "BackdoorBench",
        "OpenAI's buffers",
        "custom text",
    ],
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


def test_old_layouts_become_those_of_custom_towers(arch, state, monkeypatch, named, picture, tmp_path):
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "custom-for-tests", {**open_clip.get_model_config(arch), "custom_text": True}
    )
    state["logit_scale"] = state["logit_scale"].reshape(1)
    save_file(state, tmp_path / "w.safetensors")
    model = load("custom-for-tests", pretrained=tmp_path / "w.safetensors")
    assert type(model.clip).__name__ == "CustomTextCLIP"
    torch.testing.assert_close(model.encode_image(picture), named.encode_image(picture), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.encode_text(["a fig"]), named.encode_text(open_clip.tokenize(["a fig"])), rtol=1e-4, atol=1e-5
    )


def test_positions_are_interpolated_only_when_another_size_is_asked_for(arch, state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    model = load(arch, pretrained=tmp_path / "w.safetensors", image_size=64)
    assert model.visual.image_size == 64
    assert model.encode_image(torch.zeros(1, 3, 64, 64)).shape == (1, 16)
    assert torch.equal(model.clip.visual.positional_embedding[0], state["visual.positional_embedding"][0])
    save_file(model.clip.state_dict(), tmp_path / "large.safetensors")
    with pytest.raises(
        ModelError, match=r"visual\.positional_embedding has shape \[17, 32\], the model needs \[5, 32\]"
    ):
        load(arch, pretrained=tmp_path / "large.safetensors")


def test_unknown_names_suggest_near_ones():
    with pytest.raises(ModelError, match=r"no model 'ViT-B-23'.*did you mean \[.*'ViT-B-32'"):
        load("ViT-B-23")
    with pytest.raises(ModelError, match=r"no model 'qqqqqqqq'.*clip-decomp zoo list"):
        load("qqqqqqqq")
    with pytest.raises(ModelError, match=r"did you mean \[.*'world/badnet'"):
        load("world-badnet")


def test_openais_spelling_of_names_is_understood():
    assert load("ViT-B/32").name == "ViT-B-32"


def test_unknown_tags_are_refused():
    with pytest.raises(ModelError, match=r"open_clip cannot load 'ViT-B-32' with weights 'opneai'.*\['openai'"):
        load("ViT-B-32", pretrained="opneai")


def test_what_brings_its_weights_takes_no_others(tmp_path):
    for name in ("world/clean", str(tmp_path), "hf-hub:owner/name"):
        with pytest.raises(ModelError, match="brings its own weights: leave pretrained='openai' out"):
            load(name, pretrained="openai")


def test_a_tokenizer_out_of_reach_is_missed_only_where_texts_are_encoded(monkeypatch):
    def fail(*_: str) -> None:
        raise OSError("We couldn't connect.\nTry again.")

    monkeypatch.setattr(open_clip, "get_tokenizer", fail)
    tokenizer = tokenizer_of("ViT-B-16-SigLIP")
    with pytest.raises(ModelError, match=r"'ViT-B-16-SigLIP' cannot be fetched.*couldn't connect\. Fetch it where"):
        tokenizer(["a banana"])
