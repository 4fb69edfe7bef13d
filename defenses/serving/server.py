"""The server: LitServe's application with this package's limits, metrics and documentation."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from litserve import LitServer
from prometheus_client import CONTENT_TYPE_LATEST
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import clip_decomp
from clip_decomp.errors import SettingError

from .answers import Problem
from .api import PATH, GuardAPI
from .gate import Gate
from .metrics import Metrics
from .pictures import MEDIA_TYPES, Receiver
from .settings import Address, Limits

_REFUSALS = {
    "400": "The body is empty.",
    "408": "The body did not arrive in time.",
    "413": "Too many bytes, pixels or scans.",
    "415": "The type is not that of an image.",
    "422": "The body is not a readable image, or a parameter is wrong.",
    "500": "The server failed.",
    "503": "Too many requests are in work; Retry-After says when to come again.",
    "504": "There was no answer in time.",
}


def make_server(api: GuardAPI, size: int, limits: Limits, device: str = "cpu") -> LitServer:
    """A LitServe server that is ready to run.

    Args:
        size: side of the model's images.

    Raises:
        SettingError: a batch would wait for longer than a request may.
    """
    if api.batch_timeout >= limits.seconds:
        raise SettingError(
            f"A batch waits for {api.batch_timeout:g} s, and a request for {limits.seconds:g}: not less."
        )
    kind, _, index = device.partition(":")
    metrics = Metrics()
    server = LitServer(
        api,
        accelerator=kind,
        devices=[int(index)] if index else 1,
        workers_per_device=api.served.workers,
        timeout=limits.seconds,
        middlewares=[(Gate, {"limits": limits, "metrics": metrics, "path": PATH})],
        restart_workers=True,
    )
    app = server.app
    app.title, app.version = "clip-decomp guard", clip_decomp.__version__
    app.state.receiver = Receiver(limits, size)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)(_page_of(metrics))
    _describe([each for each in app.routes if isinstance(each, APIRoute)])
    return server


def run(server: LitServer, limits: Limits, address: Address) -> None:
    """Serve until interrupted or terminated."""
    signal.signal(signal.SIGTERM, _terminated(os.getpid()))
    torch.set_num_threads(1)  # HTTP processes are forks of this one, and a fork has no thread pool
    server.run(
        host=address.host,
        port=address.port,
        num_api_servers=address.processes,
        log_level="info",
        generate_client_file=False,
        http=_limited(limits.header_seconds, limits.header_bytes),
        ws="none",
        access_log=False,
        server_header=False,
    )


def _terminated(owner: int) -> Callable[[int, FrameType | None], None]:
    """LitServe takes its processes down when it is interrupted, and leaves them behind when it is terminated."""

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a fork that has not set its own yet
        os.kill(os.getpid(), number)

    return stop


def _limited(seconds: float, most: int) -> type[HttpToolsProtocol]:
    """The protocol of uvicorn, which by itself waits forever for the headers of a request, and keeps any number."""

    class Limited(HttpToolsProtocol):
        """Closes connections whose headers do not arrive, or do not end."""

        _waiting: asyncio.TimerHandle | None = None
        _headers = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self._waiting
            super().data_received(data)
            if self._waiting is None or self._waiting is not before:
                return  # these bytes began a request, and may have ended another one
            self._headers += len(data)
            if self._headers > most:
                self._stop_waiting()
                self.transport.abort()

        def on_message_begin(self) -> None:
            self._wait()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._stop_waiting()
            super().on_headers_complete()

        def _wait(self) -> None:
            self._stop_waiting()
            self._waiting = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
            self._waiting, self._headers = None, 0

    return Limited


def _page_of(metrics: Metrics) -> Any:
    async def page() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return page


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """A parameter that is not what it should be; in one sentence, as all errors."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)
    return JSONResponse({"detail": f"The request is not valid: {told}."}, 422)


def _describe(routes: list[APIRoute]) -> None:
    """Say in OpenAPI what LitServe does not know: bodies, refusals and plain texts."""
    problem = {"application/json": {"schema": Problem.model_json_schema()}}
    image = {"schema": {"type": "string", "format": "binary"}}
    for route in routes:
        if route.path == PATH:
            route.summary, route.operation_id = "Guard one image", "predict"
            route.description = "The body is the bytes of one image; what they are, the bytes say themselves."
            route.openapi_extra = {"requestBody": {"required": True, "content": {each: image for each in MEDIA_TYPES}}}
            route.responses = {code: {"description": told, "content": problem} for code, told in _REFUSALS.items()}
        elif route.path == "/health":
            route.summary, route.response_class = "Whether all workers are ready", PlainTextResponse
            route.responses = {"503": {"description": "They are not, or not yet.", "content": {"text/plain": {}}}}
        elif route.path != "/metrics":
            route.include_in_schema = False
