"""Folders as training writes them: weights beside a card."""

import json

import pytest
import torch
from safetensors.torch import load_file

from clip_decomp.errors import ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import CARD, WEIGHTS, load, load_folder, save_folder
from clip_decomp.training.architecture import Architecture, build


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


def test_a_folder_is_loaded_with_its_card(folder, picture, tokenizer, same_features):
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
