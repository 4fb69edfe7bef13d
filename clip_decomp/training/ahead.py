"""Batches drawn ahead by other processes, so that a fast device does not wait for pictures.

A batch depends on its step alone, so who draws it changes no number. Pictures that a worker cannot read are listed in
the stream's own table.

Example:
    >>> from clip_decomp.data.world.stream import WorldPairs
    >>> ahead = DrawnAhead(WorldPairs(seed=0), range(3), size=4, workers=1)
    >>> ahead.batch(0, 4).captions == WorldPairs(seed=0).batch(0, 4).captions
    True
    >>> ahead.close()
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..data.captioned.table import CaptionTable
from ..data.pairs import Description, PairBatch, PairStream
from ..errors import SettingError


class DrawnAhead:
    """A stream whose batches are asked for once each, in order: torch's data loader draws them.

    Limits: workers are forked, which Linux knows and Windows does not.

    Args:
        steps: that will be asked for.
        size: of every batch.
        part: of it that this process trains on.
        workers: processes that draw.

    Raises:
        SettingError: fewer than one worker, or a system that cannot fork.
    """

    def __init__(self, stream: PairStream, steps: range, size: int, workers: int, part: slice = slice(None)):
        if workers < 1:
            raise SettingError(f"Batches are drawn ahead by one worker or more, not {workers}.")
        if "fork" not in multiprocessing.get_all_start_methods():
            raise SettingError(f"Workers are forked, which {sys.platform} cannot: leave them out.")
        self.stream, self._steps, self._size, self._part = stream, steps, size, part
        self._drawn: Iterator[tuple[int, PairBatch, dict[int, str]]] = iter(
            DataLoader(
                _Batches(stream, size, part),
                batch_size=None,
                sampler=steps,
                num_workers=workers,
                multiprocessing_context="fork",
            )
        )

    @property
    def length(self) -> int | None:
        """The stream's."""
        return self.stream.length

    def describe(self, step: int, size: int) -> Description:
        """The stream's."""
        return self.stream.describe(step, size)

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The next batch.

        Raises:
            SettingError: it is not the one that is asked for.
        """
        drawn, batch, problems = next(self._drawn, (None, None, {}))
        if batch is None or (drawn, size, part) != (step, self._size, self._part):
            raise SettingError(f"Batch {drawn} was drawn ahead, not {part} of the {size} pairs of {step}.")
        for place, problem in problems.items():
            table = _table(self.stream)
            assert table is not None
            table.note(place, problem)
        return batch

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """The stream's."""
        return self.stream.showing(fact, step, size)

    def corpus(self) -> list[str]:
        """The stream's."""
        return self.stream.corpus()

    def close(self) -> None:
        """Stop the workers."""
        self._drawn = iter(())


def _table(stream: PairStream) -> CaptionTable | None:
    return getattr(stream, "table", None)


class _Batches(Dataset):
    """Batches by their steps, with the pictures that drawing each found unreadable."""

    def __init__(self, stream: PairStream, size: int, part: slice):
        self._stream, self._size, self._part = stream, size, part

    def __getitem__(self, step: int) -> Any:
        table = _table(self._stream)
        known = set() if table is None else set(table.unreadable)
        batch = self._stream.batch(step, self._size, self._part)
        found = {} if table is None else {key: why for key, why in table.unreadable.items() if key not in known}
        return step, batch, found
