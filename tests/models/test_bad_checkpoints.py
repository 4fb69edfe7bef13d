"""Checkpoints that do not fit, are broken or would run code are refused."""

import argparse
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from clip_decomp.errors import ModelError
from clip_decomp.models.loading import load, load_weights, read_state_dict


@pytest.fixture
def refused(arch):
    """Checks that a file is refused, with a message that names it."""

    def check(file, message):
        with pytest.raises(ModelError, match=message) as caught:
            load(arch, pretrained=file)
        assert Path(file).name in str(caught.value)

    return check


def test_a_file_that_is_not_there(tmp_path, refused):
    refused(tmp_path / "gone.pt", "there is no such file")
    refused(tmp_path / "gone.safetensors", "there is no such file")


def test_missing_and_extra_keys_are_named(state, tmp_path, refused):
    file = tmp_path / "w.safetensors"
    renamed = dict(state)
    renamed["visual.head"] = renamed.pop("visual.proj")
    save_file(renamed, file)
    refused(file, r"1 keys are missing \(e\.g\. \['visual\.proj'\]\), 1 are unknown \(e\.g\. \['visual\.head'\]\)")
    save_file({key: value for key, value in state.items() if "resblocks.1" not in key}, file)
    refused(file, r"12 keys are missing .*(, '.*){9}\]\), 0 are unknown")
    save_file({**state, "extra": torch.zeros(1)}, file)
    refused(file, r"0 keys are missing .* 1 are unknown \(e\.g\. \['extra'\]\)")


def test_misshapen_keys_are_named(state, tmp_path, refused):
    state["visual.proj"] = torch.zeros(32, 17)
    save_file(state, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"visual\.proj has shape \[32, 17\], the model needs \[32, 16\]")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_named(value, state, tmp_path, refused):
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


@pytest.mark.parametrize("save", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, protocol=2))])
@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_pickles_that_would_execute_are_refused_without_running(save, suffix, tmp_path, refused):
    file, proof = tmp_path / f"evil.{suffix}", tmp_path / "it-ran"
    save({"visual.proj": Executes(proof)}, file)
    refused(file, "refused, because it cannot be opened without running code")
    assert not proof.exists()
    with file.open("rb") as opened:  # the file does what the test says it does
        pickle.load(opened) if save is not torch.save else torch.load(file, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello world " * 50, b"\x80\x04K\x01.", b"PK\x03\x04 not really", b"\x00" * 100],
    ids=["empty", "text", "pickled number", "broken zip", "zeros"],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_checkpoint_is_refused(content, suffix, tmp_path, refused):
    file = tmp_path / f"junk.{suffix}"
    file.write_bytes(content)
    refused(file, "not a readable checkpoint|refused|holds no state dict")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_refused(suffix, state, tmp_path, refused):
    file = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(state, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(file, "not a readable checkpoint")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {0: torch.zeros(1)}, torch.zeros(3), {"state_dict": {"a": "b"}}])
def test_pickles_of_something_else_are_refused(content, tmp_path, refused):
    torch.save(content, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "holds no state dict of tensors")


def test_a_header_that_claims_more_than_the_file_holds_is_refused(tmp_path, refused):
    (tmp_path / "w.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    refused(tmp_path / "w.safetensors", "not a readable checkpoint")


def test_a_tensor_that_is_huge_in_words_only_is_refused_by_its_shape(state, tmp_path, refused):
    state["visual.proj"] = torch.zeros(1).expand(10**12)
    torch.save(state, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"visual\.proj has shape \[1000000000000\], the model needs \[32, 16\]")


def test_classes_that_a_checkpoint_asks_for_are_named(tmp_path, refused):
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "run.pt")
    refused(tmp_path / "run.pt", r"running code that it may bring along \(it asks for argparse\.Namespace\)")


def test_an_image_tower_alone_is_recognized(named, tmp_path, refused):
    save_file(named.visual.state_dict(), tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"It holds the image tower alone: load the rest first")


def test_weights_of_another_architecture_are_recognized(tmp_path, refused, arch, monkeypatch):
    config = open_clip.get_model_config(arch)
    bigger = {**config, "vision_cfg": {**config["vision_cfg"], "layers": 3}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "bigger-for-tests", bigger)
    save_file(open_clip.create_model("bigger-for-tests").state_dict(), tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"12 are unknown .* Its shapes are those of bigger-for-tests\.")


def test_names_that_meet_without_their_wrappers_are_refused(state, tmp_path, refused):
    save_file({**state, "module.visual.proj": state["visual.proj"].clone()}, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", r"two tensors that are both called visual\.proj")


def test_read_state_dict_takes_off_the_prefix_only(tmp_path):
    torch.save({"module.a.module.b": torch.ones(1), "c": torch.zeros(1)}, tmp_path / "w.pt")
    assert set(read_state_dict(tmp_path / "w.pt")) == {"a.module.b", "c"}
