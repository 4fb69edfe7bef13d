"""The server's limits: bodies, headers, waiting requests and work that takes too long are all cut off."""

import asyncio
import socket
import threading
import time

import pytest
import uvicorn

from clip_decomp.errors import SettingError
from defenses.serving.answers import Answerer
from defenses.serving.api import PATH
from defenses.serving.server import _limited, make_server
from defenses.serving.settings import Limits

from . import serving
from .serving import CLASSES, LIMITS, PNG, Ready, encoded, picture, post, talk

guard, vectors, start, server = serving.guard, serving.vectors, serving.start, serving.server  # fixtures


def test_a_body_that_never_ends_is_cut_off(server):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 1
            yield bytes(10_000)

    answer = talk(server, lambda client: client.post(PATH, content=endless(), headers=PNG))
    assert (answer.status_code, sent) == (413, 11)
    assert answer.headers["connection"] == "close"


def test_a_body_that_drips_is_cut_off_by_time(server):
    async def drip():
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    start = time.perf_counter()
    answer = talk(server, lambda client: client.post(PATH, content=drip(), headers=PNG))
    assert answer.status_code == 408
    assert "0.3 seconds" in answer.json()["detail"]
    assert time.perf_counter() - start < 3


def test_headers_that_never_end_are_cut_off_and_requests_that_follow_a_body_at_once_are_not():
    port, most = free_port(), 65_536
    limited = _limited(30.0, most)
    config = uvicorn.Config(echo, port=port, http=limited, ws="none", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        head = b"POST /predict HTTP/1.1\r\nHost: guard\r\nContent-Length: %d\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
            first = head % 200_000 + b"\r\n" + bytes(200_000) + head % 0
            wire.sendall(first)
            wire.sendall(b"X: " + b"x" * 30_000 + b"\r\n\r\n")
            answers = b""
            while answers.count(b" 200 ") < 2:
                piece = wire.recv(4096)
                assert piece, answers
                answers += piece
        with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
            wire.sendall(head % 0)
            # Less would be what the system buffers on the way.
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                wire.sendall((b"X: " + b"x" * 30_000 + b"\r\n") * 1000)
    finally:
        server.should_exit = True
        thread.join(20)


async def echo(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_more_requests_than_may_wait_are_told_when_to_come_again(start):
    found = post(start(limits=Limits(waiting=3)), *[encoded(picture(0))] * 8)
    assert sorted(each.status_code for each in found) == [200] * 3 + [503] * 5
    late = next(each for each in found if each.status_code == 503)
    assert late.headers["retry-after"] == "1"
    assert "again" in late.json()["detail"]


def test_a_request_that_is_not_answered_in_time_is_told_so_and_counts_until_its_work_has_ended(start, guard, vectors):
    answerer, release = Answerer(guard, CLASSES, vectors, 2), threading.Event()

    def stuck(pictures):
        release.wait(10)
        return answerer(pictures)

    server = start(limits=Limits(body_seconds=0.1, seconds=0.3, waiting=1), answerer=stuck)

    async def conversation(client):
        statuses = [(await client.post(PATH, content=encoded(picture(0)), headers=PNG)).status_code for _ in range(2)]
        release.set()
        await asyncio.sleep(0.4)
        statuses.append((await client.post(PATH, content=encoded(picture(0)), headers=PNG)).status_code)
        return statuses

    assert talk(server, conversation) == [504, 503, 200]
    assert server.response_buffer == {}


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"bytes": 0}, "bytes is 0"),
        ({"waiting": -1}, "waiting is -1"),
        ({"pixels": 10**9}, "1000000000"),
        ({"body_seconds": 30.0}, "30 s"),
    ],
)
def test_limits_that_are_none_are_refused(limits, words):
    with pytest.raises(SettingError, match=words):
        Limits(**limits)


def test_a_batch_that_waits_for_longer_than_a_request_may_is_refused(guard, vectors):
    api = Ready(Answerer(guard, CLASSES, vectors, 2))
    api.batch_timeout = 5.0
    with pytest.raises(SettingError, match="5 s"):
        make_server(api, 32, LIMITS)
