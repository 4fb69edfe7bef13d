import json
import logging
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

import clip_decomp
from clip_decomp.errors import ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import CARD, WEIGHTS, load, load_folder, load_weights, read_state_dict, save_folder
from clip_decomp.training.architecture import Architecture, build

NAME = "tiny-for-tests"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture
def named(monkeypatch, randomize):
    """A tiny architecture under an open_clip name, and a model of it."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, CONFIG)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return randomize(open_clip.create_model(NAME))


@pytest.fixture
def state(named):
    return {key: value.clone() for key, value in named.state_dict().items()}


@pytest.fixture
def picture():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def same_features(model, clip, picture):
    return torch.allclose(model.encode_image(picture), clip.encode_image(picture), rtol=1e-4, atol=1e-5)


# --- names, files, live models ----------------------------------------------------------------------------------------


def test_a_name_alone_gives_random_weights(named):
    model = load(NAME)
    assert isinstance(model, HookedCLIP)
    assert model.name == NAME
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
def test_files_are_loaded_without_their_wrappers(wrap, save, name, named, state, picture, tmp_path):
    save(wrap(state), tmp_path / name)
    model = load(NAME, pretrained=tmp_path / name)
    assert same_features(model, named, picture)
    assert all(torch.equal(value, state[key]) for key, value in model.clip.state_dict().items())
    assert same_features(load(NAME, pretrained=str(tmp_path / name)), named, picture)


def test_half_precision_files_are_loaded_in_full_precision(named, state, picture, tmp_path):
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "w.safetensors")
    model = load(NAME, pretrained=tmp_path / "w.safetensors")
    assert {value.dtype for value in model.clip.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model.encode_image(picture), named.encode_image(picture), rtol=0.05, atol=0.02)


def test_quick_gelu_is_never_guessed_silently(named, state, picture, tmp_path, caplog):
    save_file(state, tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING, logger="clip_decomp"):
        load(NAME, pretrained=tmp_path / "w.safetensors")
    assert "does not say whether it was trained with QuickGELU; assuming GELU" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="clip_decomp"):
        quick = load(NAME, pretrained=tmp_path / "w.safetensors", quick_gelu=True)
        plain = load(NAME, pretrained=tmp_path / "w.safetensors", quick_gelu=False)
    assert "QuickGELU" not in caplog.text
    assert not same_features(quick, named, picture)
    assert same_features(plain, named, picture)


def test_a_live_model_is_hooked_as_it_is(named, picture):
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


# --- bad checkpoints --------------------------------------------------------------------------------------------------


def refused(file, message):
    with pytest.raises(ModelError, match=message) as caught:
        load(NAME, pretrained=file)
    assert Path(file).name in str(caught.value)


@pytest.mark.usefixtures("named")
def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "gone.pt", "there is no such file")
    refused(tmp_path / "gone.safetensors", "there is no such file")


def test_missing_and_extra_keys_are_named(state, tmp_path):
    file = tmp_path / "w.safetensors"
    renamed = dict(state)
    renamed["visual.head"] = renamed.pop("visual.proj")
    save_file(renamed, file)
    refused(file, r"1 keys are missing \(e\.g\. \['visual\.proj'\]\), 1 are unknown \(e\.g\. \['visual\.head'\]\)")
    save_file({key: value for key, value in state.items() if "resblocks.1" not in key}, file)
    refused(file, r"12 keys are missing .* 0 are unknown")
    save_file({**state, "extra": torch.zeros(1)}, file)
    refused(file, r"0 keys are missing .* 1 are unknown \(e\.g\. \['extra'\]\)")


def test_misshapen_keys_are_named(state, tmp_path):
    state["visual.proj"] = torch.zeros(32, 17)
    save_file(state, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"visual\.proj has shape \[32, 17\], the model needs \[32, 16\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(value, state, tmp_path):
    state["visual.ln_post.bias"][5] = value
    save_file(state, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"visual\.ln_post\.bias holds NaN or infinite values")


def test_a_refused_checkpoint_leaves_the_model_as_it_was(named, state, unchanged, tmp_path):
    same = unchanged(named)
    state["visual.conv1.weight"] = state["visual.conv1.weight"] * 2
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError):
        load_weights(named, tmp_path / "w.safetensors")
    assert same()


class Executes:
    """Makes a folder when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return Path.mkdir, (self.proof,)


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("save", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, protocol=2))])
@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_pickles_that_would_execute_are_refused_without_running(save, suffix, tmp_path):
    file, proof = tmp_path / f"evil.{suffix}", tmp_path / "it-ran"
    save({"visual.proj": Executes(proof)}, file)
    refused(file, "refused, because it cannot be opened without running code")
    assert not proof.exists()
    with file.open("rb") as opened:  # the file does what the test says it does
        pickle.load(opened) if save is not torch.save else torch.load(file, weights_only=False)
    assert proof.exists()


@pytest.mark.usefixtures("named")
def test_a_program_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "program.pt"))
    refused(tmp_path / "program.pt", "TorchScript program, not a checkpoint.*pretrained='openai'")


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize(
    "content",
    [b"", b"hello world " * 50, b"\x80\x04K\x01.", b"PK\x03\x04 not really", b"\x00" * 100],
    ids=["empty", "text", "pickled number", "broken zip", "zeros"],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_checkpoint_is_refused(content, suffix, tmp_path):
    file = tmp_path / f"junk.{suffix}"
    file.write_bytes(content)
    refused(file, "not a readable checkpoint|refused|holds no state dict")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_refused(suffix, state, tmp_path):
    file = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(file, "not a readable checkpoint")


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {0: torch.zeros(1)}, torch.zeros(3), {"state_dict": {"a": "b"}}])
def test_pickles_of_something_else_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds no state dict of tensors")


def test_read_state_dict_takes_off_the_prefix_only(tmp_path):
    torch.save({"module.a.module.b": torch.ones(1), "c": torch.zeros(1)}, tmp_path / "w.pt")
    assert set(read_state_dict(tmp_path / "w.pt")) == {"a.module.b", "c"}


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, tokenizer, randomize):
    """A folder as training writes it."""
    architecture = Architecture(
        embed_dim=16,
        image_size=32,
        layers=2,
        width=32,
        heads=4,
        context_length=16,
        vocab_size=tokenizer.vocab_size,
        text_layers=1,
        text_width=16,
        text_heads=2,
    )
    clip = randomize(build(architecture, seed=1))
    card = {
        "architecture": architecture.to_dict(),
        "tokenizer": json.loads(tokenizer.to_json()),
        "normalization": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]},
        "note": "Grüße",
    }
    save_folder(HookedCLIP(clip, tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)), tmp_path / "run", card, half=False)
    return tmp_path / "run", clip


def edit(path, **changes):
    card = json.loads((path / CARD).read_text())
    card.update(changes)
    (path / CARD).write_text(json.dumps(card))


def test_a_folder_is_loaded_with_its_card(folder, picture, tokenizer):
    path, clip = folder
    model = load(path)
    assert same_features(model, clip, picture)
    assert (model.mean, model.std, model.name) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25), "run")
    assert model.card["note"] == "Grüße"
    assert torch.equal(model.tokenizer(["a fig"]), tokenizer(["a fig"]))
    torch.testing.assert_close(model.encode_text(["a fig"]), clip.encode_text(tokenizer(["a fig"])))
    assert load(str(path)).name == "run"
    assert load_folder(path, "world/clean").name == "world/clean"


def test_folders_hold_half_precision_by_default_and_the_hash_of_the_weights(folder, tmp_path):
    import hashlib

    path, _ = folder
    save_folder(load(path), tmp_path / "half", {"note": "second"})
    stored = load_file(tmp_path / "half" / WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    model = load(tmp_path / "half")
    assert model.card["note"] == "second"
    assert model.card["architecture"]["layers"] == 2  # inherited
    assert model.card["sha256"] == hashlib.sha256((tmp_path / "half" / WEIGHTS).read_bytes()).hexdigest()
    assert next(model.clip.parameters()).dtype == torch.float32


def test_a_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"there is no card\.json in it; point to a folder written by"):
        load(tmp_path)


def test_a_folder_without_weights_is_refused(folder):
    path, _ = folder
    (path / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: there is no such file"):
        load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {"layers": 2, "depth": 3}},
        {"architecture": {"width": 33}},
        {"architecture": None},
        {"tokenizer": {}},
        {"tokenizer": "words"},
        {"normalization": {"mean": [0, 0, 0]}},
        {"normalization": None},
    ],
)
def test_unusable_cards_are_refused(changes, folder):
    path, _ = folder
    edit(path, **changes)
    with pytest.raises(ModelError, match=r"card\.json: not a usable card"):
        load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"card"', "{}"])
def test_cards_that_are_no_objects_are_refused(text, folder):
    path, _ = folder
    (path / CARD).write_text(text)
    with pytest.raises(ModelError, match=r"card\.json: not a usable card"):
        load(path)


def test_a_card_of_another_architecture_is_refused(folder):
    path, _ = folder
    card = json.loads((path / CARD).read_text())
    edit(path, architecture={**card["architecture"], "layers": 3})
    with pytest.raises(ModelError, match=r"12 keys are missing \(e\.g\. \['visual\.transformer\.resblocks\.2"):
        load(path)
    edit(path, architecture={**card["architecture"], "embed_dim": 17})
    with pytest.raises(ModelError, match="has shape"):
        load(path)


def test_a_card_whose_tokenizer_does_not_fit_the_model_is_refused(folder):
    path, _ = folder
    card = json.loads((path / CARD).read_text())
    edit(path, architecture={**card["architecture"], "vocab_size": 100})
    with pytest.raises(ModelError, match="entries, the model only 100"):
        load(path)


def test_impossible_architectures_are_refused():
    for wrong in ({"heads": 5}, {"text_heads": 3}, {"patch_size": 7}):
        with pytest.raises(SettingError, match="Heads must divide widths and patches must divide the image"):
            Architecture(**wrong)


def test_building_is_deterministic_and_leaves_the_default_initialization_on_request(folder):
    architecture = Architecture(layers=1, width=32, heads=2, text_layers=1, text_width=16, text_heads=2)
    first, again, other = (build(architecture, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["visual.proj"], other["visual.proj"])
    assert first["logit_scale"].item() == pytest.approx(2.3)
    assert torch.count_nonzero(first["visual.positional_embedding"][0]) == 0  # the class token has no place
