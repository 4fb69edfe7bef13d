"""Checkpoints are whole, whatever interrupts them."""

import copy

import pytest
import torch

from clip_decomp import drafts
from clip_decomp.errors import SettingError
from clip_decomp.training import checkpoint
from clip_decomp.training.checkpoint import load_checkpoint, save_checkpoint


def optimizer_of(clip):
    optimizer = torch.optim.AdamW(clip.parameters(), lr=0.1)
    for parameter in clip.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def test_checkpoints_restore_weights_optimizer_step_and_log(clip, tmp_path, equal):
    optimizer = optimizer_of(clip)
    save_checkpoint(tmp_path / "deep" / "run", clip, [optimizer], 7, [{"loss": 1.5}], {})
    saved, moments = copy.deepcopy(clip), copy.deepcopy(optimizer.state_dict())
    optimizer.step()
    assert not equal(clip, saved)
    step, history = load_checkpoint(tmp_path / "deep" / "run", clip, [optimizer], {})
    assert (step, history) == (7, [{"loss": 1.5}])
    assert equal(clip, saved)
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments["state"][key][name]) for name, value in state.items())


def test_only_the_newest_checkpoint_is_kept(clip, tmp_path):
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, clip, [], step, [], {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-6.safetensors", "checkpoint.json"]


@pytest.mark.parametrize("moment", ["while writing tensors", "before the swap", "after the swap"])
def test_an_interrupt_never_leaves_half_a_checkpoint(moment, clip, tmp_path, monkeypatch, equal):
    optimizer = optimizer_of(clip)
    save_checkpoint(tmp_path, clip, [optimizer], 2, [], {})
    saved = copy.deepcopy(clip)
    optimizer.step()
    real_save, real_replace = checkpoint.save_file, drafts.os.replace

    def half(tensors, file):
        real_save(tensors, file)
        file.write_bytes(file.read_bytes()[:100])
        raise KeyboardInterrupt

    def stop(source, target):
        if moment == "after the swap":
            real_replace(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "while writing tensors":
            patch.setattr(checkpoint, "save_file", half)
        else:
            patch.setattr(drafts.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, clip, [optimizer], 4, [], {})

    newer, restored = copy.deepcopy(clip), copy.deepcopy(clip)
    step, _ = load_checkpoint(tmp_path, restored, [optimizer], {})
    assert step == (4 if moment == "after the swap" else 2)
    assert equal(restored, newer if moment == "after the swap" else saved)
    # The next one cleans up whatever was left behind.
    save_checkpoint(tmp_path, clip, [optimizer], 6, [], {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-6.safetensors", "checkpoint.json"]


@pytest.mark.parametrize("here", [{"lr": 2.0, "target": "cat"}, {"lr": 1.0}, {"lr": 1.0, "target": "cat", "more": 1}])
def test_another_runs_checkpoint_is_refused_and_nothing_is_touched(here, clip, tmp_path, equal):
    save_checkpoint(tmp_path, clip, [], 2, [], {"lr": 1.0, "target": "cat"})
    with torch.no_grad():
        clip.visual.proj.add_(1)
    before = copy.deepcopy(clip)
    with pytest.raises(SettingError, match=r"another run \((lr|target|more) is .* there and .* here\)"):
        load_checkpoint(tmp_path, clip, [], here)
    assert equal(clip, before)
    assert load_checkpoint(tmp_path, clip, [], {"target": "cat", "lr": 1.0})[0] == 2


def test_settings_are_compared_as_json_writes_them_and_long_ones_are_cut(clip, tmp_path):
    save_checkpoint(tmp_path, clip, [], 2, [], {"sizes": (1, 2)})
    assert load_checkpoint(tmp_path, clip, [], {"sizes": [1, 2]})[0] == 2
    with pytest.raises(SettingError) as refused:
        load_checkpoint(tmp_path, clip, [], {"sizes": "f " * 5000})
    assert len(str(refused.value)) < 400 + len(str(tmp_path))
