"""Stores of the tiny model and data."""

from pathlib import Path

import pytest

from clip_decomp.store import write_store


@pytest.fixture
def store(model, toy, tmp_path):
    """24 pictures in shards of 10, batches of 4."""
    return write_store(model, toy, tmp_path / "store", shard_size=10, batch_size=4).store


@pytest.fixture(scope="session")
def contents():
    """Reads every file below a folder, hidden ones too, but for ``results.json``."""

    def read(folder: Path) -> dict[str, bytes]:
        files = [file for file in folder.rglob("*") if file.is_file() and file.name != "results.json"]
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}

    return read
