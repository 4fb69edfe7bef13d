"""``results.json``: one shape for every command's numbers.

``{"name", "scale", "seed", "settings", "versions", "counts", "seconds", "metrics"}`` with flat metric names
``<scale>[:<set>]/<attack>/<defense>/<measure>`` and values in 0..1.

Example:
    >>> scale_of("world:outlines"), prefix("world:outlines", "badnet", "none")
    ('world', 'world:outlines/badnet/none')
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .drafts import drafted

_PACKAGES = ("clip-decomp", "torch", "torchvision", "open_clip_torch", "transformer-lens", "numpy", "scikit-learn")


@dataclass
class Results:
    """What a command measured."""

    name: str
    scale: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The shape of ``results.json``."""
        return {
            "name": self.name,
            "scale": self.scale,
            "seed": self.seed,
            "settings": self.settings,
            "versions": versions(),
            "counts": self.counts,
            "seconds": round(self.seconds, 2),
            "metrics": {key: round(float(value), 6) for key, value in self.metrics.items()},
        }

    def write(self, folder: Path) -> Path:
        """Write ``results.json`` to ``folder``, all of it or nothing."""
        return write_json(folder / "results.json", self.to_dict())


def write_json(file: Path, content: Mapping[str, Any]) -> Path:
    """Write JSON so that an interrupt never leaves half a file, and no other process sees one."""
    with drafted(file) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n")
    return file


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def scale_of(data_name: str) -> str:
    """``world``, ``tiny-imagenet``, ``imagenet``, or the data set's own name."""
    return data_name.split(":")[0]


def prefix(data_name: str, attack: str, defense: str) -> str:
    """The part of a metric's name before the measure."""
    return f"{data_name}/{attack}/{defense}"
