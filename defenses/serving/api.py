"""The inference worker: loads a guard once, and answers batches of pictures."""

# LitServe reads the annotations of decode_request and encode_response: they must not be strings.
import logging
import time
from typing import Annotated, Any

import torch
from fastapi import Depends
from litserve import LitAPI
from litserve.loops.simple_loops import BatchedLoop

from clip_decomp.models.loading import load
from clip_decomp.zeroshot import class_vectors

from ..guard import Guard
from .answers import Answer, Answerer
from .metrics import Metrics
from .pictures import Picture, received
from .settings import Served

logger = logging.getLogger(__name__)

PATH = "/predict"
#: How long a worker waits for a first request before it looks whether it should stop.
_IDLE_SECONDS = 1.0


class WaitingLoop(BatchedLoop):
    """Waits for a first request and then, for the time of a batch, for others.

    LitServe's own loop asks the queue a thousand times a second or more, also when there is nothing to do.
    """

    def get_batch_requests(
        self, lit_api: LitAPI, request_queue: Any, transport: Any
    ) -> tuple[list[tuple[int, str, Picture]], list[tuple[int, str]]]:
        """A batch, and the requests that have waited for too long to be in it."""
        request = self.get_request(request_queue, timeout=_IDLE_SECONDS)
        end, batch, late = time.monotonic() + lit_api.batch_timeout, [], []
        while request is not None:
            client, uid, since, picture = request
            if time.monotonic() - since > lit_api.request_timeout:
                late.append((client, uid))
            else:
                batch.append((client, uid, picture))
            if len(batch) >= lit_api.max_batch_size:
                break
            request = self.get_request(request_queue, timeout=max(0.0, end - time.monotonic()))
        return batch, late


class GuardAPI(LitAPI):
    """LitServe's view of a guard.

    Args:
        batch_size: pictures that are encoded together at most.
        batch_seconds: how long the first of them waits for others.
    """

    def __init__(self, served: Served, batch_size: int = 16, batch_seconds: float = 0.005):
        super().__init__(max_batch_size=batch_size, batch_timeout=batch_seconds, api_path=PATH, loop=WaitingLoop())
        self.served = served

    def setup(self, device: str) -> None:
        """Load the model and its guard, and encode the classes."""
        torch.set_num_threads(max(1, torch.get_num_threads() // self.served.workers))
        model = load(self.served.model, **self.served.weights, device=device)
        names = self.served.class_names
        vectors = class_vectors(model, names, self.served.templates)
        self.use(Answerer(Guard.load(self.served.guard, model), names, vectors, self.served.top))

    def use(self, answerer: Answerer) -> None:
        """Answer with this."""
        self.answerer, self.metrics = answerer, Metrics()

    def decode_request(self, request: Annotated[Picture, Depends(received)]) -> Picture:
        """The picture, as the HTTP process decoded it."""
        return request

    def predict(self, x: list[Picture]) -> list[Answer]:
        """An answer for each picture of a batch."""
        answers = self.answerer(x)
        self.metrics.batch(answers)
        return answers

    def encode_response(self, output: Answer) -> Answer:
        """The answer, as it is."""
        return output
