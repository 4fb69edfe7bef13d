"""Clients of a running server for a load test: good ones, and those that mean it harm."""

from __future__ import annotations

import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from PIL import Image

#: What a server may answer; None where it hangs up instead, as it may when it has stopped reading.
Expected = tuple[int | None, ...]
_SECONDS = 60.0


@dataclass
class Client:
    """One connection that is kept, and opened again when the server has closed it."""

    port: int
    connection: HTTPConnection | None = field(default=None, repr=False)

    def post(self, body: bytes, kind: str = "image/png") -> tuple[int, dict[str, Any]]:
        """Status and answer for a body."""
        fresh = self.connection is None
        self.connection = self.connection or HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        try:
            self.connection.request("POST", "/predict", body, {"Content-Type": kind})
            answer = self.connection.getresponse()
            found = answer.status, json.loads(answer.read())
        except (OSError, ValueError):
            self.close()
            if fresh:
                raise
            return self.post(body, kind)
        if answer.will_close:
            self.close()
        return found

    def close(self) -> None:
        """Hang up."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


def bomb(side: int = 60_000) -> bytes:
    """A PNG whose header promises far more than its few bytes hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def large(side: int = 4_900) -> bytes:
    """A small file of nearly as many pixels as are allowed, which is decoded in earnest."""
    return _file(Image.new("RGBA", (side, side), (9, 8, 7, 6)), "PNG")


def _file(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def _head(*lines: str) -> bytes:
    start = ("POST /predict HTTP/1.1", "Host: guard", "Content-Type: image/png")
    return "\r\n".join([*start, *lines]).encode()


def _raw(port: int, start: bytes, piece: bytes, pause: float, most: int) -> int | None:
    """Send a start and then pieces, until there is an answer, the server hangs up, or it was enough."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as wire:
        try:
            wire.sendall(start)
            for _ in range(most):
                wire.settimeout(pause or 1e-4)
                try:
                    return _status(wire.recv(4096))
                except TimeoutError:
                    wire.settimeout(_SECONDS)
                    wire.sendall(piece)
            wire.settimeout(_SECONDS)
            return _status(wire.recv(4096))
        except OSError:
            return None


def _status(answer: bytes) -> int | None:
    return int(answer.split(b" ", 2)[1]) if answer else None


def _left(port: int) -> None:
    """Promise a body, and leave in the middle of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as wire:
        wire.sendall(_head("Content-Length: 5000", "", "") + bytes(100))
        time.sleep(0.05)


def hostile(good: bytes, max_bytes: int) -> dict[str, tuple[Callable[[Client], int | None], Expected]]:
    """What hostile clients do, and how the server may answer.

    Args:
        good: a picture, as a PNG.
        max_bytes: the server's limit.
    """
    with Image.open(io.BytesIO(good)) as image:
        jpeg = _file(image.convert("RGB").resize((300, 300)), "JPEG")
    wide, pixels = bomb(), large()
    piece = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n"
    huge, chunks = f"Content-Length: {1 << 34}", _head("Transfer-Encoding: chunked", "", "")
    slow = _head("Content-Length: 5000", "", "")
    cut_off: Expected = (413, None)
    header = b"X-Large: " + b"x" * 65_536 + b"\r\n"
    return {
        "bomb": (lambda client: client.post(wide)[0], (413,)),
        "many pixels": (lambda client: client.post(pixels)[0], (200,)),
        "many scans": (lambda client: client.post(jpeg + b"\xff\xda" * 10_000, "image/jpeg")[0], (413,)),
        "truncated": (lambda client: client.post(jpeg[: len(jpeg) // 2], "image/jpeg")[0], (422,)),
        "text": (lambda client: client.post(b"I am a picture." * 100)[0], (422,)),
        "path": (lambda client: client.post(b"file:///etc/passwd")[0], (422,)),
        "wrong type": (lambda client: client.post(good, "application/json")[0], (415,)),
        "empty": (lambda client: client.post(b"")[0], (400,)),
        "huge, said": (lambda client: _raw(client.port, _head(huge, "", ""), bytes(65536), 0, 200), cut_off),
        "huge, unsaid": (lambda client: _raw(client.port, chunks, piece, 0, 2 + 2 * max_bytes // 65536), cut_off),
        "slow body": (lambda client: _raw(client.port, slow, b"x", 0.2, 4000), (408,)),
        "slow headers": (lambda client: _raw(client.port, _head(""), b"X", 0.2, 4000), (None,)),
        "huge headers": (lambda client: _raw(client.port, _head(""), header, 0, 400), (None,)),
        "left": (lambda client: _left(client.port), (None,)),
        "no HTTP": (lambda client: _raw(client.port, b"\x16\x03\x01 hello\r\n\r\n", b"x", 0.2, 50), (400, None)),
    }
