"""The server: answers are the guard's own, bad bodies are refused with a sentence, and every limit holds.

HTTP processes and inference workers are threads here: LitServe's application, queue and loop are the real ones.
"""

import asyncio
import io
import json
import queue
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import uvicorn
from litserve.callbacks import CallbackRunner
from litserve.loops import inference_worker
from litserve.transport.process_transport import MPQueueTransport
from litserve.utils import WorkerSetupStatus
from PIL import Image

from clip_decomp.data.images import open_image, to_pixels
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.zeroshot import class_vectors
from defenses.guard import Guard
from defenses.serving.answers import Answerer
from defenses.serving.api import PATH, GuardAPI
from defenses.serving.gate import Gate
from defenses.serving.metrics import Metrics
from defenses.serving.server import _limited, make_server
from defenses.serving.settings import Limits, Served

CLASSES = ("apple", "pear", "plum", "fig")
LIMITS = Limits(bytes=100_000, pixels=90_000, body_seconds=0.3, seconds=5.0)
PNG = {"content-type": "image/png"}


class Ready(GuardAPI):
    """Loads nothing."""

    def __init__(self, answerer):
        super().__init__(Served("tiny", Path(), CLASSES, ("{}",)), batch_size=4, batch_seconds=0.02)
        self.ready = answerer

    def setup(self, device):
        self.use(self.ready)


@pytest.fixture(scope="module")
def guard(make_clip, tokenizer):
    """Calibrated on smooth pictures, so that noise is flagged."""
    model = HookedCLIP(make_clip(), tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), name="tiny")
    seed = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(120, 3, 4, 4, generator=seed), scale_factor=8, mode="bilinear")
    return Guard.calibrate(model, model.normalize(smooth), false_positive_rate=0.1)


def in_mode(guard, mode):
    return Guard(guard.model_, guard.deviation, guard.reference, guard.false_positive_rate, mode)


@pytest.fixture(scope="module")
def vectors(guard):
    return class_vectors(guard.model_, CLASSES)


@pytest.fixture(scope="module")
def start(guard, vectors):
    """Starts a server."""

    def build(mode="reject", limits=LIMITS, answerer=None):
        api = Ready(answerer or Answerer(in_mode(guard, mode), CLASSES, vectors, top=2))
        server = make_server(api, 32, limits)
        server.litapi_connector.pre_setup()
        server._transport = MPQueueTransport(None, [queue.Queue()])
        server.litapi_request_queues = {PATH: queue.Queue()}
        server.workers_setup_status = {"predict_0": WorkerSetupStatus.READY}
        server.app.response_queue_id = 0
        work = (api, "cpu", 0, server.litapi_request_queues[PATH], server._transport, {}, CallbackRunner(), False)
        threading.Thread(target=inference_worker, args=work, daemon=True).start()
        return server

    return build


@pytest.fixture(scope="module")
def server(start):
    """One that rejects."""
    return start()


def talk(server, conversation):
    """Run a conversation with a client of a started application."""

    async def whole():
        async with server.lifespan(server.app):
            transport = httpx.ASGITransport(server.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://guard") as client:
                found = await conversation(client)
        server._transport.send(None, 0)  # a thread of the loop still waits for it
        return found

    return asyncio.run(whole())


def post(server, *bodies, headers=PNG, path=PATH):
    """Answers to bodies that are sent at once."""

    async def conversation(client):
        return await asyncio.gather(*(client.post(path, content=body, headers=headers) for body in bodies))

    return talk(server, conversation)


def encoded(image, kind="PNG", **settings):
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def picture(seed, smooth=True, size=(40, 36)):
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3) if smooth else (*size, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BILINEAR) if smooth else small


def bomb(width=60_000, height=60_000):
    """A PNG whose header promises far more than its few bytes hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["flag", "reject", "repair"])
def test_answers_are_those_of_the_guard_called_directly(start, guard, mode):
    bodies = [encoded(picture(seed, smooth=seed % 2 == 0)) for seed in range(6)]
    found = [each.json() for each in post(start(mode), *bodies)]
    pixels = torch.stack([to_pixels(open_image(body), 32) for body in bodies])
    images = guard.model_.normalize(pixels.float() / 255)
    direct = in_mode(guard, mode)
    verdict = direct(images)
    likely = direct.zero_shot(images, CLASSES).softmax(-1)
    assert 0 < verdict.flagged.sum() < 6
    assert [each["flagged"] for each in found] == verdict.flagged.tolist()
    for k, each in enumerate(found):
        flagged = bool(verdict.flagged[k])
        assert (each["rejected"], each["repaired"]) == (flagged and mode == "reject", flagged and mode == "repair")
        assert (each["mode"], each["false_positive_rate"]) == (mode, 0.1)
        assert each["p_value"] == pytest.approx(float(verdict.p_values[k]), abs=0.02)
        assert each["score"] == pytest.approx(float(verdict.deviations.score[k]), rel=1e-3, abs=1e-3)
        assert (each["evidence"] is not None) == flagged
        if flagged and mode == "reject":
            assert each["classes"] is None
        else:
            values, labels = likely[k].topk(2)
            assert [one["name"] for one in each["classes"]] == [CLASSES[label] for label in labels]
            assert [one["probability"] for one in each["classes"]] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_rejected_image_comes_with_evidence_and_without_nan(server, guard):
    body = encoded(picture(1, smooth=False))
    plain, explained = post(server, body)[0], post(server, body, path=f"{PATH}?explain=true")[0]
    assert plain.status_code == explained.status_code == 200
    assert "NaN" not in plain.text
    assert "NaN" not in explained.text
    heads, mapped = plain.json()["evidence"]["heads"], explained.json()["evidence"]["heads"]
    expected = guard.explain(guard.model_.normalize(to_pixels(open_image(body), 32)[None].float() / 255))[0]
    assert [each["name"] for each in heads] == [each["name"] for each in mapped] == [h.name for h in expected.heads]
    assert heads[0]["token_map"] is None
    torch.testing.assert_close(torch.tensor(mapped[0]["token_map"]), expected.token_map, rtol=1e-3, atol=1e-3)
    for key in ("deviation", "tail_probability"):
        assert heads[0][key] == pytest.approx(getattr(expected.heads[0], key), rel=1e-3, abs=1e-9)


def test_values_that_are_not_finite_become_null(start, guard):
    broken = torch.full((4, guard.model_.visual.d_embed), torch.nan)
    found = post(start(answerer=Answerer(guard, CLASSES, broken, 2)), encoded(picture(0)))[0]
    assert found.status_code == 200
    assert found.json()["classes"] is None


@pytest.mark.parametrize(
    "body",
    [
        encoded(picture(0).convert("CMYK"), "JPEG"),
        encoded(Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)),
        encoded(picture(0).convert("P"), transparency=3),
        encoded(picture(0).convert("RGBA")),
        encoded(picture(0).convert("LA")),
        encoded(picture(0), "WEBP"),
        encoded(picture(0), "BMP"),
        encoded(picture(0), "GIF", save_all=True, append_images=[picture(1), picture(2)]),
        encoded(picture(0), "JPEG", progressive=True),
        encoded(picture(0, size=(3000, 1))),
        encoded(picture(0, size=(1, 1))),
    ],
    ids=["cmyk", "16 bit", "palette", "rgba", "la", "webp", "bmp", "animation", "progressive", "strip", "dot"],
)
def test_unusual_pictures_are_answered_whatever_type_is_declared(server, body):
    answer = post(server, body, headers={"content-type": "image/jpeg; q=1"})[0]
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", PNG, 400, "empty"),
        (bomb(), PNG, 413, "exceeds limit"),
        (bomb(400, 400), PNG, 413, "400 x 400"),
        (bomb(200, 200), PNG, 422, "truncated"),
        (encoded(picture(0), "JPEG")[:300], PNG, 422, "truncated"),
        (encoded(picture(0))[:60], PNG, 422, "cannot be read"),
        (b"GIF89a" + bytes(40), PNG, 422, "damaged"),
        (b"BM" + bytes(80), PNG, 422, "damaged"),
        (b"hello, I am a picture", PNG, 422, "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PNG, 422, "known format"),
        (encoded(picture(0), "TIFF"), PNG, 422, "known format"),
        (b"\xff\xd8" + b"\xff\xda" * 60, PNG, 413, "scans"),
        (encoded(picture(0)), {}, 415, "names none"),
        (encoded(picture(0)), {"content-type": "text/plain"}, 415, "not text/plain"),
        (encoded(picture(0)), {"content-type": "image/svg+xml"}, 415, "image/svg+xml"),
        (b'{"url": "file:///etc/passwd"}', {"content-type": "application/json"}, 415, "application/json"),
        (b"file:///etc/passwd", PNG, 422, "known format"),
        (bytes(100_001), PNG, 413, "100000 bytes"),
    ],
)
def test_bad_bodies_are_refused_in_a_sentence(server, body, headers, status, words):
    answer = post(server, body, headers=headers)[0]
    assert answer.status_code == status
    told = answer.json()
    assert list(told) == ["detail"]
    assert words in told["detail"]
    assert "Traceback" not in answer.text
    assert " at 0x" not in answer.text


def test_a_parameter_that_is_not_valid_is_refused_in_the_same_shape(server):
    answer = post(server, encoded(picture(0)), path=f"{PATH}?explain=perhaps")[0]
    assert answer.status_code == 422
    assert "explain" in answer.json()["detail"]


def test_bad_bodies_do_not_spoil_the_batch_that_they_arrive_with(server):
    good, bad = encoded(picture(0)), [encoded(picture(0))[:60], bomb(), b"text"]
    found = post(server, good, *bad, good)
    assert [each.status_code for each in found] == [200, 422, 413, 422, 200]
    assert found[0].json() == found[4].json()


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


def test_a_failure_is_no_stack_trace(start):
    def broken(_):
        raise RuntimeError("a secret of the server")

    answer = post(start(answerer=broken), encoded(picture(0)))[0]
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error"})


def test_the_gate_answers_for_an_application_that_fails_and_for_a_client_that_left():
    async def failing(scope, receive, send):
        await receive()
        raise RuntimeError("a secret")

    sent, metrics = [], Metrics()
    gate = Gate(failing, LIMITS, metrics, PATH)
    scope = {"type": "http", "path": PATH, "method": "POST", "headers": [(b"content-type", b"image/png")]}

    async def send(message):
        sent.append(message)

    async def call(*messages):
        waiting = iter(messages)

        async def receive():
            return next(waiting)

        await gate(scope, receive, send)

    asyncio.run(call({"type": "http.request", "body": b"x"}))
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    sent.clear()
    asyncio.run(call({"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}))
    assert sent == []
    assert gate.inside == 0
    assert b'requests_total{status="499"} 1.0' in metrics.text()


def test_health_metrics_and_methods(start):
    server = start()

    async def conversation(client):
        for body in (encoded(picture(0)), encoded(picture(1, smooth=False)), b""):
            await client.post(PATH, content=body, headers=PNG)
        wrong = [await client.get(PATH), await client.post("/health"), await client.put(PATH, content=b"x")]
        return wrong, await client.get("/health"), await client.get("/metrics"), await client.get("/openapi.json")

    wrong, health, metrics, described = talk(server, conversation)
    assert {each.status_code for each in wrong} == {405}
    assert (health.status_code, health.text) == (200, "ok")
    told = metrics.text
    assert 'clip_decomp_guard_requests_total{status="200"} 2.0' in told
    assert 'clip_decomp_guard_requests_total{status="400"} 1.0' in told
    assert "clip_decomp_guard_request_seconds_count 3.0" in told
    predict = described.json()["paths"][PATH]["post"]
    assert "image/jpeg" in predict["requestBody"]["content"]
    assert set(predict["responses"]) == {"200", "400", "408", "413", "415", "422", "500", "503", "504"}
    refusal = predict["responses"]["422"]["content"]["application/json"]["schema"]
    assert set(refusal["properties"]) == {"detail"}
    server.workers_setup_status["predict_0"] = WorkerSetupStatus.STARTING
    assert talk(server, lambda client: client.get("/health")).status_code == 503


def test_the_guard_counts_batches_flags_and_p_values(guard, vectors):
    from defenses.serving.pictures import Picture

    api = Ready(Answerer(guard, CLASSES, vectors, 2))
    api.setup("cpu")
    pictures = [Picture(to_pixels(picture(seed, smooth=seed > 0), 32).numpy()) for seed in range(3)]
    answers = api.predict(pictures)
    told = api.metrics.text().decode()
    assert answers[0].flagged
    assert f'flagged_total{{mode="reject"}} {sum(each.flagged for each in answers)}.0' in told
    assert "images_total 3.0" in told
    assert "batch_size_sum 3.0" in told
    assert "p_value_count 3.0" in told
    assert json.loads(answers[0].model_dump_json())["classes"] is None


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
