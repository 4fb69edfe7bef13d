"""The server: answers are the guard's own, and bad bodies are refused with a sentence."""

import asyncio
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from litserve.utils import WorkerSetupStatus
from PIL import Image

from clip_decomp.data.images import open_image, to_pixels
from defenses.serving.answers import Answerer
from defenses.serving.api import PATH
from defenses.serving.gate import Gate
from defenses.serving.metrics import Metrics

from . import serving
from .serving import CLASSES, LIMITS, PNG, Ready, encoded, in_mode, picture, post, talk

guard, vectors, start, server = serving.guard, serving.vectors, serving.start, serving.server  # fixtures


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
