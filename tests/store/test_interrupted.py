"""A store has the same bytes whatever interrupted it and however many processes wrote it."""

import json
import os
import runpy
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clip_decomp.data.sets import TensorSource
from clip_decomp.store import open_store, write_store

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def once():
    """Writes a store in this process."""
    return runpy.run_path(str(SCRIPT))["once"]


@pytest.fixture(scope="module")
def whole(once, tmp_path_factory):
    """A store that was written without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    assert once(folder).images == 200
    return folder


def script(*arguments):
    """What the script printed last."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def killed_and_resumed(folder, seed, count, once, contents):
    found = script("kills", folder, seed, count)
    assert len(found) == count
    expected = contents(folder / "whole")
    for number, kill in enumerate(found):
        assert once(folder / f"killed-{number}").images >= 200 - 20 * kill["shards"]
        assert contents(folder / f"killed-{number}") == expected, kill
    return found


def test_a_killed_run_resumes_to_the_same_bytes(once, contents, tmp_path):
    killed_and_resumed(tmp_path, 0, 3, once, contents)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_forty_kills_at_random_moments(once, contents, tmp_path):
    found = killed_and_resumed(tmp_path, 1, 40, once, contents)
    assert len({each["shards"] for each in found}) > 4  # early, late and between
    assert any(name.startswith(".writing/") for each in found for name in each["files"])  # in the middle of a file


class Stopping(TensorSource):
    """Pictures that cannot be read a second time from one on; the first reading is the digest's."""

    def __init__(self, images, stop):
        super().__init__(images)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "seen", set())

    def read(self, index):
        if index in self.seen and index == self.stop:
            raise KeyboardInterrupt
        self.seen.add(index)
        return self.images[index]


@pytest.mark.parametrize("stop", [0, 7, 10, 13, 23])
def test_an_interrupt_costs_no_more_than_the_shard_it_hits(stop, model, toy, contents, tmp_path):
    settings = {"shard_size": 6, "batch_size": 4}
    write_store(model, toy, tmp_path / "whole", **settings)
    data = replace(toy, source=Stopping(toy.source.images, stop))
    with pytest.raises(KeyboardInterrupt):
        write_store(model, data, tmp_path / "stopped", **settings)
    resumed = write_store(model, toy, tmp_path / "stopped", **settings)
    assert resumed.images == 24 - stop // 6 * 6
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_second_run_does_nothing(model, toy, store, contents, monkeypatch):
    before, times = contents(store.folder), {file: file.stat().st_mtime_ns for file in store.folder.iterdir()}
    (store.folder / ".writing").mkdir()
    (store.folder / ".writing" / "17-shard-00001.safetensors").write_bytes(b"half")
    assert write_store(model, toy, store.folder, shard_size=10, batch_size=4).images == 0
    assert contents(store.folder) == before
    assert {file: file.stat().st_mtime_ns for file in store.folder.iterdir()} == times


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another store", "gone"])
def test_what_is_half_written_is_written_again(damage, model, toy, store, contents, tmp_path):
    """As after a power cut on a file system that does not keep promises: nothing is merged yet."""
    expected = contents(store.folder)
    settings = {"shard_size": 10, "batch_size": 4}
    unfinished = write_unfinished(model, toy, tmp_path / "unfinished", settings)
    for name in ("shard-00001.safetensors", "sums-00001.safetensors"):
        file = unfinished / name
        content = file.read_bytes()
        if damage == "gone":
            file.unlink()
        elif damage == "of another store":
            file.write_bytes(content.replace(open_store(store.folder).plan.identity.encode(), b"0" * 64))
        else:
            file.write_bytes(content[:-10] if damage == "truncated" else b"")
        assert write_store(model, toy, unfinished, **settings).images == 10 + 4  # this shard and the last
        assert contents(unfinished) == expected
        unfinished = write_unfinished(model, toy, tmp_path / f"again-{name}", settings)


def write_unfinished(model, toy, folder, settings):
    """A store whose shards 0 and 1 are written by a second process, the main one having done nothing yet."""
    from clip_decomp.store import writing

    class Killed(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        real, calls = writing.write_shard, []

        def some(*arguments):
            if len(calls) == 2:
                raise Killed
            calls.append(arguments)
            return real(*arguments)

        patch.setattr(writing, "write_shard", some)
        patch.setattr(writing, "merge", lambda folder, plan, shards: shards)
        with pytest.raises(Killed):
            write_store(model, toy, folder, **settings)
    assert (folder / "sums-00001.safetensors").exists()
    return folder


def test_a_resumed_run_computes_with_as_many_threads_as_the_first(model, toy, tmp_path, monkeypatch):
    unfinished = write_unfinished(model, toy, tmp_path, {"shard_size": 10, "batch_size": 4})
    seen, real = [], model.decompose

    def decompose(*arguments, **options):
        seen.append(torch.get_num_threads())
        return real(*arguments, **options)

    monkeypatch.setattr(model, "decompose", decompose)
    torch.set_num_threads(2)
    try:
        write_store(model, toy, unfinished, shard_size=10, batch_size=4)
        assert seen == [2, 1]  # the probe, then the work
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_two_processes_write_the_store_of_one(whole, contents, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [  # as torchrun does it, without the seconds that it takes
        subprocess.Popen(
            [sys.executable, str(SCRIPT), "once", str(tmp_path)],
            env={
                **os.environ,
                **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
                **{"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    found = []
    for process in processes:
        out, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
        found.append(json.loads(out.splitlines()[-1]))
    assert found == [{"main": True, "images": 200}, {"main": False, "images": 200}]
    assert contents(tmp_path) == contents(whole)


def test_two_processes_share_the_work(model, toy, tmp_path, contents):
    """Each writes its own shards, and the main one merges them in order: here the second is done before it begins."""
    from clip_decomp.store import writing
    from clip_decomp.training.parallel import Processes

    settings = {"shard_size": 3, "batch_size": 4}
    expected = contents(write_store(model, toy, tmp_path / "one", **settings).store.folder)
    folder = tmp_path / "two"
    write_unfinished(model, toy, folder, settings)
    for file in folder.glob("s*-0000[01].safetensors"):
        file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "launched", lambda _: Processes(2, 1))
        patch.setattr(Processes, "wait", lambda self: None)
        patch.setattr(Processes, "gather", lambda self, *tensors: tensors)
        patch.setattr(writing, "open_store", lambda folder: None)
        assert write_store(model, toy, folder, **settings).images == 12
    names = sorted(file.name for file in folder.glob("shard-*"))
    assert names == [f"shard-{number:05d}.safetensors" for number in (1, 3, 5, 7)]
    assert write_store(model, toy, folder, **settings).images == 12
    assert contents(folder) == expected


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_of_the_command(contents, tmp_path):
    found = script("commands", tmp_path, os.environ.get("KILL_SEED", "0"), 20)
    assert len(found) == 20
    expected = contents(tmp_path / "whole")
    for number, kill in enumerate(found):
        assert contents(tmp_path / f"killed-{number}") == expected, kill
    assert len({each["shards"] for each in found}) > 4
