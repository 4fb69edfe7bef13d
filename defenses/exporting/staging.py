"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_decomp.errors import SettingError


@contextmanager
def staged(out: Path, mark: str) -> Iterator[Path]:
    """An empty folder beside ``out`` that takes its place when nothing went wrong, and is removed otherwise.

    Args:
        mark: a file that tells an earlier folder of this kind, which may be replaced, from others.

    Raises:
        SettingError: ``out`` is a file, or a folder with something else in it.
    """
    if out.exists() and not out.is_dir():
        raise SettingError(f"{out} is a file: name a folder to export to.")
    if out.is_dir() and any(out.iterdir()) and not (out / mark).is_file():
        raise SettingError(f"{out} holds something other than an export: name a new folder, or empty this one.")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # temporary folders are their owner's alone
        shutil.rmtree(out, ignore_errors=True)
        os.replace(scratch, out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
