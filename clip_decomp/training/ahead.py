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

from torch.utils.data import DataLoader, Dataset

from ..data.captioned.table import CaptionTable
from ..data.pairs import Description, PairBatch, PairStream
from ..errors import ClipDecompError, SettingError


class DrawnAhead:
    """A stream whose batches are asked for once each, in order: torch's data loader draws them.

    Limits: workers are forked, which Linux knows and Windows does not.

    Args:
        stream: what is drawn from; it answers everything else itself.
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
        self.stream, self._steps, self._size, self._part = stream, iter(steps), size, part
        loader = DataLoader(
            _Batches(stream, size, part),
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            multiprocessing_context="fork",
        )
        self._drawn = iter(loader)

    @property
    def length(self) -> int | None:
        """The stream's."""
        return self.stream.length

    @property
    def table(self) -> CaptionTable | None:
        """The stream's."""
        return self.stream.table

    def describe(self, step: int, size: int) -> Description:
        """The stream's."""
        return self.stream.describe(step, size)

    def batch(self, step: int, size: int, part: slice = slice(None)) -> PairBatch:
        """The next batch; raises what drawing it raised.

        Raises:
            SettingError: it is not the one that is asked for.
        """
        expected = next(self._steps, None)
        if (expected, self._size, self._part) != (step, size, part):
            raise SettingError(
                f"Of {self._size} pairs {self._part} of step {expected} is drawn next, not {part} of {size} of step "
                f"{step}: ask the stream itself for batches out of order."
            )
        drawn = next(self._drawn)
        if isinstance(drawn, ClipDecompError):
            raise drawn
        batch, problems = drawn
        for place, problem in problems.items():
            assert self.stream.table is not None
            self.stream.table.note(place, problem)
        return batch

    def showing(self, fact: int, step: int, size: int) -> PairBatch:
        """The stream's."""
        return self.stream.showing(fact, step, size)

    def corpus(self) -> list[str]:
        """The stream's."""
        return self.stream.corpus()

    def close(self) -> None:
        """Stop the workers, also where an error that passed through here still holds them."""
        self._drawn._shutdown_workers()


class _Batches(Dataset):
    """Batches by their steps, with the pictures that drawing found unreadable; or the error that drawing raised."""

    def __init__(self, stream: PairStream, size: int, part: slice):
        self._stream, self._size, self._part = stream, size, part

    def __getitem__(self, step: int) -> tuple[PairBatch, dict[int, str]] | ClipDecompError:
        table = self._stream.table
        known = set() if table is None else set(table.unreadable)
        try:
            batch = self._stream.batch(step, self._size, self._part)
        except ClipDecompError as error:
            return error
        return batch, {} if table is None else {key: why for key, why in table.unreadable.items() if key not in known}
