"""What a server is told: what it serves, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from clip_decomp.errors import SettingError

#: What LitServe listens on: this machine alone, every interface, and that with IPv6.
HOSTS = ("127.0.0.1", "0.0.0.0", "::")


@dataclass(frozen=True)
class Served:
    """What an inference worker loads, and what its answers name.

    Attributes:
        model: as :func:`clip_decomp.models.loading.load` takes it.
        guard: folder of a guard that was calibrated on this model.
        class_names, templates: of zero-shot classification.
        top: how many classes an answer names at most.
        workers: inference workers on a device; they share its cores.
        weights: what else ``load`` is told of the model: ``pretrained``, ``quick_gelu``, ``mean``, ``std``.
    """

    model: str
    guard: Path
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    top: int = 5
    workers: int = 1
    weights: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.top < 1 or self.workers < 1:
            raise SettingError(
                f"A server needs one worker and one class an answer or more, not {self.workers} and {self.top}."
            )


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        processes: that speak HTTP and decode pictures.
    """

    host: str = HOSTS[0]
    port: int = 8000
    processes: int = 1

    def __post_init__(self) -> None:
        if self.host not in HOSTS or not 1024 <= self.port <= 65535 or self.processes < 1:
            raise SettingError(
                f"A server listens on one of {', '.join(HOSTS)}, at a port of 1024 to 65535, with one process or more: "
                f"{self.host}, {self.port} and {self.processes} do not fit."
            )


@dataclass(frozen=True)
class Limits:
    """What a client may ask for. Every limit is one of each HTTP process.

    Attributes:
        bytes: of a body.
        pixels: of a picture, known from its header before anything is decoded.
        header_seconds: until the headers of a request have arrived.
        body_seconds: until its body has arrived.
        seconds: until it is answered.
        waiting: requests that are in work at once; more are told to come again.
        scans: of a JPEG; each one costs a pass over all pixels, and usual progressive files have about ten.
        header_bytes: of a request's address and headers, those that arrive together with its first byte apart.
    """

    bytes: int = 8 * 2**20
    pixels: int = 25_000_000
    header_seconds: float = 10.0
    body_seconds: float = 10.0
    seconds: float = 30.0
    waiting: int = 64
    scans: int = 50
    header_bytes: int = 65_536

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise SettingError(f"A server's limit is more than 0: {name} is {value}.")
        most = Image.MAX_IMAGE_PIXELS or self.pixels
        if self.pixels > most:
            raise SettingError(f"Pictures of more than {most} pixels are never decoded; {self.pixels} are asked for.")
        if self.body_seconds >= self.seconds:
            raise SettingError(
                f"A body may take {self.body_seconds:g} s to arrive: the whole request needs more than "
                f"{self.seconds:g} s."
            )
