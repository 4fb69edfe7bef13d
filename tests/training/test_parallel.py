"""Two processes give the numbers of one."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clip_decomp.errors import SettingError
from clip_decomp.training.parallel import Processes, launched
from clip_decomp.training.trainer import _start_together

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return runpy.run_path(str(SCRIPT))["scenarios"](tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = [  # as torchrun does it, without the seconds that it takes
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env={
                **os.environ,
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in launched:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", ["plain", "everything", "resumed", "imitating", "tokens"])
def test_two_processes_follow_the_loss_curve_of_one(name, one, two):
    for found in two[1]:
        assert found[name]["losses"] == pytest.approx(one[name]["losses"], abs=1e-4)
    assert len(one[name]["losses"]) == 4


@pytest.mark.parametrize("name", ["plain", "everything", "local", "resumed", "imitating", "tokens", "entry"])
def test_all_processes_end_with_the_same_weights(name, two):
    first, second = (found[name]["weights"] for found in two[1])
    assert first == second


def test_an_entry_of_the_zoo_is_built_by_all_and_written_once(one, two):
    folder, (main, _) = two
    assert min(main["entry"]["seconds"]) > 0
    assert main["entry"]["loss"] == pytest.approx(one["entry"]["loss"], abs=0.02)  # the attack may train in bfloat16
    assert {file.name for file in (folder / "entry").iterdir()} == {"card.json", "model.safetensors", "training"}
    assert (folder / "zoo/tiny/clean/model.safetensors").is_file()


def test_a_resumed_run_ends_as_an_uninterrupted_one(two):
    assert two[1][0]["resumed"] == two[1][0]["plain"]


def test_local_negatives_are_another_loss(one, two):
    assert one["local"]["losses"] == one["plain"]["losses"]  # one process has no others to leave out
    # Six captions to tell apart instead of twelve: about log 2 less.
    assert two[1][0]["local"]["losses"][0] < one["local"]["losses"][0] - 0.3
    assert two[1][0]["local"]["losses"] == two[1][1]["local"]["losses"]


def test_only_the_main_process_measures_and_writes(two):
    folder, (main, other) = two
    assert main["monitored"] == [1, 2, 3, 4] * 3
    assert other["monitored"] == []
    names = sorted(file.name for file in (folder / "plain").iterdir())
    assert names == ["checkpoint-4.safetensors", "checkpoint.json", "train.json"]


def test_processes_share_a_batch_out():
    parts = [Processes(count=3, rank=rank).part(12) for rank in range(3)]
    assert [list(range(12))[part] for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(SettingError, match="A batch of 10 pairs cannot be shared by 3 processes evenly"):
        Processes(count=3).part(10)


class Apart(Processes):
    """The other process is at step 3."""

    def gather(self, *tensors):
        return tuple(torch.cat([each, torch.full_like(each, 3)]) for each in tensors)


def test_processes_that_found_different_checkpoints_do_not_start(clip, tmp_path):
    with pytest.raises(SettingError, match=r"found different checkpoints in .*, of steps \[2, 3\]"):
        _start_together(clip, Apart(), 2, tmp_path)
    _start_together(clip, Apart(), 3, tmp_path)


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    here = launched(torch.device("cpu"))
    values = torch.arange(3)
    assert here == Processes()
    assert here.main
    assert here.gather(values)[0] is values
    assert here.mean(values) is values
