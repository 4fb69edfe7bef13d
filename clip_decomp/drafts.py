"""Files that are written whole: no interrupt leaves half of one, and no other process reads half.

Limits: a process that is killed leaves its draft, a hidden file beside the one it was to become.

Example:
    >>> from tempfile import mkdtemp
    >>> file = Path(mkdtemp()) / "folder" / "words.txt"
    >>> with drafted(file) as draft:
    ...     _ = draft.write_text("all of it")
    >>> file.read_text(), len(list(file.parent.iterdir()))
    ('all of it', 1)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def drafted(file: Path) -> Iterator[Path]:
    """A place beside a file, no other writer's, that takes its name at the end, or is removed after an error.

    The file's folder is made if it is missing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{uuid4().hex[:12]}.tmp")
    try:
        yield draft
        os.replace(draft, file)
    finally:
        draft.unlink(missing_ok=True)
