"""Folders in open_clip's own form."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clip_decomp.errors import ModelError
from clip_decomp.models.loading import load


@pytest.fixture
def folder(arch, state, tmp_path):
    """A folder that open_clip could have pushed to a hub."""

    def make(preprocess=None, **model):
        described = {"model_cfg": {**open_clip.get_model_config(arch), **model}, "preprocess_cfg": preprocess or {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(described))
        save_file(state, tmp_path / "open_clip_model.safetensors")
        return tmp_path

    return make


def test_a_folder_is_loaded_as_open_clip_does(folder, named, picture, same_features):
    path = folder({"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]})
    for name in (path, f"local-dir:{path}"):
        model = load(name)
        assert same_features(model, named, picture)
        assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
        assert model.encode_text(["a fig"]).shape == (1, 16)
    torch.save(named.state_dict(), path / "epoch.pt")
    (path / "open_clip_model.safetensors").unlink()
    assert same_features(load(path), named, picture)


@pytest.mark.parametrize("quick", [True, False])
def test_its_description_says_activation_and_normalization(quick, folder):
    path = folder({"mean": [0.5, 0.4, 0.3]}, quick_gelu=quick)
    assert ("QuickGELU" in str(load(path).clip)) == quick
    with pytest.raises(ModelError, match=rf"open_clip_config\.json says .*GELU, but quick_gelu={not quick}"):
        load(path, quick_gelu=not quick)
    with pytest.raises(ModelError, match=r"open_clip_config\.json says mean="):
        load(path, mean=(0.1, 0.1, 0.1))


def test_weights_are_checked(folder, state):
    path = folder()
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, path / "open_clip_model.safetensors")
    with pytest.raises(ModelError, match=r"open_clip_model\.safetensors: visual\.proj holds NaN"):
        load(path)
    (path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"there are no weights beside open_clip_config\.json"):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {}}'])
def test_unusable_descriptions_are_refused(text, folder):
    path = folder()
    (path / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"not a usable description|open_clip cannot load"):
        load(path)


def test_folders_and_repositories_that_are_not_there_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="there is no folder"):
        load(f"local-dir:{tmp_path / 'gone'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        load(tmp_path / "empty")

    def fail(*args, **kwargs):
        raise FileNotFoundError("no network")

    monkeypatch.setattr("clip_decomp.models.loading.named.download_pretrained_from_hf", fail)
    with pytest.raises(ModelError, match=r"'hf-hub:owner/name' cannot be fetched, .* no network Fetch it where"):
        load("hf-hub:owner/name")


def test_a_repository_is_loaded_like_a_folder(folder, named, picture, same_features, monkeypatch):
    path = folder()

    def fetch(repository, filename=None, cache_dir=None):
        assert repository == "owner/name"
        return str(path / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr("clip_decomp.models.loading.named.download_pretrained_from_hf", fetch)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", fetch)
    model = load("hf-hub:owner/name")
    assert same_features(model, named, picture)
    assert model.name == "hf-hub:owner/name"
