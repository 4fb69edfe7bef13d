"""A server of a tiny guard to send pictures to.

HTTP processes and inference workers are threads here: LitServe's application, queue and loop are the real ones.
"""

import asyncio
import io
import queue
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from litserve.callbacks import CallbackRunner
from litserve.loops import inference_worker
from litserve.transport.process_transport import MPQueueTransport
from litserve.utils import WorkerSetupStatus
from PIL import Image

from clip_decomp.model import HookedCLIP
from clip_decomp.zeroshot import class_vectors
from defenses.guard import Guard
from defenses.serving.answers import Answerer
from defenses.serving.api import PATH, GuardAPI
from defenses.serving.server import make_server
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
