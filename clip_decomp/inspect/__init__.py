"""One head on one page: its texts, its pictures, where it looks, what the trigger does to it, and what depends on it.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> data = open_data("world", 64, test=40)
    >>> report = clip_decomp.load("world/clean").head(7, 5).inspect(data.test, data.held_out.first(40), n_texts=2)
    >>> report.name, len(report.to_frame()), report.trigger
    ('L7H5', 2, None)
"""

from __future__ import annotations

from .head import Head
from .measure import inspect_head
from .result import Ablated, HeadReport, Pushes, Shown, TextView

__all__ = ["Ablated", "Head", "HeadReport", "Pushes", "Shown", "TextView", "inspect_head"]
