"""Numbers of a running server, for Prometheus.

Processes share them through files in the folder that ``PROMETHEUS_MULTIPROC_DIR`` names; it must be set before
``prometheus_client`` is first imported. Without it, they are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from .answers import Answer

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_P_VALUES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """Counters and histograms."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        start = "clip_decomp_guard_"
        self.requests = Counter(f"{start}requests", "Requests by status.", ["status"], registry=self.registry)
        self.seconds = Histogram(
            f"{start}request_seconds", "From the headers to the answer.", buckets=_SECONDS, registry=self.registry
        )
        self.images = Counter(f"{start}images", "Images that the guard saw.", registry=self.registry)
        self.flagged = Counter(f"{start}flagged", "Flagged images, by what was done.", ["mode"], registry=self.registry)
        self.batches = Histogram(
            f"{start}batch_size", "Images that were encoded together.", buckets=_SIZES, registry=self.registry
        )
        self.p_values = Histogram(
            f"{start}p_value",
            "Uniform while images are like the calibration's.",
            buckets=_P_VALUES,
            registry=self.registry,
        )

    def request(self, status: int, seconds: float) -> None:
        """A request was answered."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)

    def batch(self, answers: Sequence[Answer]) -> None:
        """A batch went through the guard."""
        self.batches.observe(len(answers))
        self.images.inc(len(answers))
        for answer in answers:
            self.p_values.observe(answer.p_value)
            if answer.flagged:
                self.flagged.labels(answer.mode).inc()

    def text(self) -> bytes:
        """All processes' numbers, as Prometheus reads them."""
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry(support_collectors_without_names=True)
        MultiProcessCollector(shared)
        return generate_latest(shared)
