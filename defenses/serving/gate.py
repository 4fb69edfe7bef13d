"""Who gets in: limits on bodies, on time and on the number of requests, before anything is decoded.

The gate is ASGI middleware in front of one path. It takes the whole body, within a size and a time, and hands it on; it
answers for requests that take too long, and no longer counts them once their work has really ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .pictures import MEDIA_TYPES
from .settings import Limits

logger = logging.getLogger(__name__)

#: Clients that left before their answer, in the metrics.
_LEFT = 499


class Refused(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()):
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Left(Exception):
    """A client that left before its body was there."""


class Reply:
    """The way back to a client: whoever starts to answer first, the gate or the application, answers alone."""

    def __init__(self, send: Send):
        self._send = send
        self.status: int | None = None
        self._refused = False

    async def __call__(self, message: Message) -> None:
        if self._refused:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer in place of the application, and close the connection: there may be more on it."""
        if self.status is not None:
            return
        self.status, self._refused = refused.status, True
        body = json.dumps({"detail": refused.detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"connection", b"close"), *refused.headers]
        await self._send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


class Gate:
    """The middleware.

    Args:
        path: that the limits apply to; nothing else takes a body.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, path: str):
        self.app, self.limits, self.metrics, self.path = app, limits, metrics, path
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        start, reply = time.perf_counter(), Reply(send)
        if self.inside >= self.limits.waiting:
            detail = f"The server is at work on {self.inside} requests: try again later."
            await reply.refuse(Refused(503, detail, ((b"retry-after", b"1"),)))
        else:
            await self._within_time(scope, receive, reply)
        self.metrics.request(reply.status or _LEFT, time.perf_counter() - start)

    async def _within_time(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        self.inside += 1
        task = asyncio.create_task(self._serve(scope, receive, reply))
        task.add_done_callback(self._done)
        try:
            await asyncio.wait({task}, timeout=self.limits.seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            await reply.refuse(Refused(504, f"There was no answer within {self.limits.seconds:g} seconds."))
            # Its picture may still be in work; a worker that was lost on the way will never answer.
            asyncio.get_running_loop().call_later(self.limits.seconds, task.cancel)

    def _done(self, _: asyncio.Task[None]) -> None:
        self.inside -= 1

    async def _serve(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        try:
            body = await self._body(Headers(scope=scope), receive)
        except Refused as refused:
            await reply.refuse(refused)
            return
        except Left:
            return
        handed_on = False

        async def replay() -> Message:
            nonlocal handed_on
            if handed_on:
                return await receive()
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, replay, reply)
        except Exception:
            logger.exception("A request failed.")
            await reply.refuse(Refused(500, "The server failed on this image."))

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """All of a body.

        Raises:
            Refused: 415 for another type, 413 for too many bytes, 408 for too slow a client.
            Left: the client left.
        """
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in MEDIA_TYPES:
            sent = f"not {kind[:60]}" if kind else "and this one names none"
            raise Refused(415, f"The body is the bytes of one image, its type {', '.join(MEDIA_TYPES)}, {sent}.")
        most = self.limits.bytes
        too_large = Refused(413, f"The body is larger than {most} bytes.")
        if int(headers.get("content-length", "0")) > most:  # the parser refuses what is not a number
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Left
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refused(408, f"The body did not arrive within {self.limits.body_seconds:g} seconds.") from None
