"""A store has the same bytes whatever interrupted it and however many processes wrote it."""

import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from clip_decomp.data.sets import ImageSet, TensorSource
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


def killed_and_resumed(folder, seed, count, once, contents):
    command = [sys.executable, str(SCRIPT), "kills", str(folder), str(seed), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    expected = contents(folder / "whole")
    for number in range(count):
        resumed = once(folder / f"killed-{number}")
        assert 0 <= resumed.images < 200 or not found[number]["shards"]
        assert contents(folder / f"killed-{number}") == expected, found[number]
    return found


def test_a_killed_run_resumes_to_the_same_bytes(once, contents, tmp_path):
    found = killed_and_resumed(tmp_path, 0, 3, once, contents)
    assert len(found) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_forty_kills_at_random_moments(once, contents, tmp_path):
    found = killed_and_resumed(tmp_path, 1, 40, once, contents)
    assert len({each["shards"] for each in found}) > 4  # early, late and between
    assert any(".writing" in name or "-shard" in name for each in found for name in each["files"])


class Stopping(TensorSource):
    """Pictures whose reading stops at one of them."""

    stop = -1

    def read(self, index):
        if index == self.stop:
            raise KeyboardInterrupt
        return self.images[index]


@pytest.mark.parametrize("stop", [0, 7, 10, 13, 23])
def test_an_interrupt_costs_no_more_than_the_shard_it_hits(stop, model, toy, contents, tmp_path):
    settings = {"shard_size": 6, "batch_size": 4}
    write_store(model, toy, tmp_path / "whole", **settings)
    source = Stopping(toy.source.images)
    # The digest reads every picture, too: it is the second reading that stops.
    data = ImageSet(toy.name, toy.class_names, toy.labels, source, target="fig")
    reads = iter([False] * 24)
    source_read = source.read

    def read(index):
        if next(reads, True):
            return source_read(index)
        return source.images[index]

    object.__setattr__(source, "read", read)
    object.__setattr__(source, "stop", stop)
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

    def stop(*_):
        raise Killed

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


def test_two_processes_share_the_work(model, toy, tmp_path, contents, store):
    """Each writes its own shards; the main one merges them in order, whoever was first."""
    from clip_decomp.store import writing
    from clip_decomp.training.parallel import Processes

    class Alone(Processes):
        def wait(self):
            if self.rank == 1 and not (tmp_path / "manifest.json").exists():
                raise AssertionError("the main process must come first")

        def gather(self, *tensors):
            return tensors

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
    """The command itself, killed when a random shard is there and a random time later."""
    chance = random.Random(int(os.environ.get("KILL_SEED", "0")))
    arguments = ["--model", "world/clean", "--data", "world", "--images", "160", "--shard-size", "16"]
    settings = [*arguments, "--batch-size", "8", "--json"]

    def start(folder):
        command = [sys.executable, "-m", "clip_decomp.cli", "decompose", *settings, "--out", str(folder)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)

    assert start(tmp_path / "whole").wait() == 0
    expected = contents(tmp_path / "whole")
    moments = []
    while len(moments) < 20:
        folder = tmp_path / f"killed-{len(moments)}"
        process, shards = start(folder), chance.randrange(10)
        while process.poll() is None and not (
            (folder / "manifest.json").exists() and len(list(folder.glob("shard-*"))) >= shards
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        if not killed or json.loads((folder / "manifest.json").read_text())["complete"]:
            for file in folder.rglob("*"):
                if file.is_file():
                    file.unlink()
            continue
        moments.append(len(list(folder.glob("shard-*"))))
        assert start(folder).wait() == 0
        assert contents(folder) == expected, f"killed with {moments[-1]} shards"
    assert len(set(moments)) > 4
