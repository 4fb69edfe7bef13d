"""``clip-decomp bench guard-server``: a real server, good clients, and hostile ones among them."""

from __future__ import annotations

import io
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Clock, Json, Model, Out, Seed, finish
from clip_decomp.results import Results, prefix, scale_of

if TYPE_CHECKING:
    from ..guard import Guard
    from ..serving.answers import Answer
    from ..serving.hostile import Client

_MAX_BYTES, _SLOWEST = 2**20, 1.0
_QUARTERS = ("0", "0.25", "0.5", "0.75", "1")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def guard_server(
    model: Model = "world/badnet",
    clients: Annotated[int, typer.Option(min=1, help="At work at once.")] = 8,
    requests: Annotated[int, typer.Option(min=20, help="Of all clients together.")] = 2000,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of hostile requests.")] = 0.1,
    pictures: Annotated[int, typer.Option(min=4, help="Different ones, every other one triggered.")] = 64,
    out: Out = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Answers, latency and memory of a guard's server while a part of its clients is hostile."""
    from clip_decomp.cli.weights import open_model
    from clip_decomp.errors import ModelError

    from ..guard import Guard
    from ..serving.hostile import hostile
    from .guard import class_texts
    from .subjects import own_pictures

    clock, hooked = Clock(), open_model(model, "cpu")
    clean = own_pictures(hooked, None, 200, seed)
    guard = Guard.calibrate(hooked, hooked.normalize(clean.pixels))
    bodies, expected = _good(guard, *class_texts(hooked, None, None), pictures, seed)
    attacks = hostile(bodies[0], _MAX_BYTES)
    chance, kinds = random.Random(seed), list(attacks)
    plan: list[str | int] = [kinds[k % len(kinds)] for k in range(round(requests * share))]
    plan += [chance.randrange(len(bodies)) for _ in range(requests - len(plan))]
    chance.shuffle(plan)
    latencies: list[float] = []
    wrong: list[str] = []
    statuses: Counter[str] = Counter()

    def one(what: str | int, client: Client) -> None:
        start = time.perf_counter()
        try:
            if isinstance(what, int):
                status, found = client.post(bodies[what], f"image/{_FORMATS[what % 4].lower()}")
                latencies.append(time.perf_counter() - start)
                if status != 200 or not _same(found, expected[what]):
                    wrong.append(f"picture {what}: {status} {found}")
                statuses[f"good: {status}"] += 1
            else:
                status = attacks[what][0](client)
                if status not in attacks[what][1]:
                    wrong.append(f"{what}: {status}, not {attacks[what][1]}")
                statuses[f"{what}: {status or 'closed'}"] += 1
        except (OSError, ValueError) as error:
            wrong.append(f"{what}: {type(error).__name__}: {error}")

    with TemporaryDirectory() as folder:
        guard.save(folder)
        with _running(model, Path(folder), clients) as (process, port):
            memory, seconds = [_memory(process)], 0.0
            for quarter in range(4):
                part = plan[quarter * requests // 4 : (quarter + 1) * requests // 4]
                start = time.perf_counter()
                _at_once(one, part, clients, port)
                seconds += time.perf_counter() - start
                memory.append(_memory(process))
            alive = process.poll() is None
    if not alive or wrong:
        raise ModelError(f"The server {'' if alive else 'died, and '}gave {len(wrong)} wrong answers: {wrong[:3]}.")
    latencies.sort()
    middle, last = latencies[len(latencies) // 2], latencies[int(0.99 * len(latencies))]
    start = prefix(clean.name, "clean", "guard")
    metrics = {f"{start}/server-seconds;quantile={q}": each for q, each in (("0.5", middle), ("0.99", last))}
    metrics |= {f"{start}/server-requests-per-second": len(plan) / seconds}
    metrics |= {
        f"{start}/server-megabytes;after={part}": each / 1e6 for part, each in zip(_QUARTERS, memory, strict=True)
    }
    settings: dict[str, Any] = {"model": model, "clients": clients, "share": share, "statuses": dict(statuses)}
    counts = {"requests": len(plan), "good": len(latencies), "wrong": len(wrong)}
    rows = [
        ("requests", f"{len(plan)} of {clients} clients, {len(plan) - len(latencies)} of them hostile"),
        ("wrong answers", "0"),
        ("latency of good ones", f"p50 {1e3 * middle:.0f} ms, p99 {1e3 * last:.0f} ms"),
        ("requests a second", f"{len(plan) / seconds:.1f}"),
        (
            "memory of all processes",
            " -> ".join(f"{each / 1e6:.0f}" for each in memory) + " MB (idle, then after every quarter)",
        ),
        *sorted((key, str(value)) for key, value in statuses.items()),
    ]
    results = Results("bench guard-server", scale_of(clean.name), seed, settings, counts, metrics, clock())
    finish(results, out, as_json, rows)


def _good(
    guard: Guard, names: tuple[str, ...], templates: tuple[str, ...], count: int, seed: int
) -> tuple[list[bytes], list[Answer]]:
    """Encoded pictures, clean and triggered ones in turn, and the answers that the guard itself gives."""
    import torch

    from clip_decomp.data import open_data
    from clip_decomp.data.images import open_image, to_pil, to_pixels
    from clip_decomp.zeroshot import class_vectors

    from ..serving.answers import Answerer
    from ..serving.pictures import Picture

    model, size = guard.model_, guard.model_.visual.image_size
    data, bodies = open_data(model.card["data"], size, seed).test, []
    for k, pixels in enumerate(data.first(count).load()[0]):
        if k % 2 and model.trigger is not None:
            pixels = (255 * model.trigger(pixels[None].float() / 255, torch.tensor([k]))[0]).round().byte()
        out = io.BytesIO()
        to_pil(pixels).save(out, _FORMATS[k % 4])
        bodies.append(out.getvalue())
    answer = Answerer(guard, names, class_vectors(model, names, templates), top=5)
    return bodies, answer([Picture(to_pixels(open_image(body), size).numpy()) for body in bodies])


def _same(found: dict[str, Any], expected: Answer) -> bool:
    """Whether an answer is the expected one, but for the rounding of another batch."""
    wanted = expected.model_dump()
    for key in ("flagged", "rejected", "repaired", "mode", "false_positive_rate"):
        if found[key] != wanted[key]:
            return False
    if abs(found["score"] - wanted["score"]) > 1e-3 * max(1.0, abs(wanted["score"])):
        return False
    if found["classes"] is None or wanted["classes"] is None:
        return found["classes"] == wanted["classes"]
    pairs = zip(found["classes"], wanted["classes"], strict=True)
    return all(abs(one["probability"] - other["probability"]) < 1e-3 for one, other in pairs)


def _at_once(one: Any, plan: list[str | int], clients: int, port: int) -> None:
    from ..serving.hostile import Client

    def work(first: int) -> None:
        client = Client(port)
        for what in plan[first::clients]:
            one(what, client)
        client.close()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, range(clients)))


@contextmanager
def _running(model: str, guard: Path, clients: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server in a process of its own, ready; it is told to end, and must leave nothing behind."""
    import psutil

    from clip_decomp.cli.weights import said
    from clip_decomp.errors import ModelError

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "clip_decomp.cli", "guard", "serve", "--model", model, "--guard", str(guard)]
    line += [
        *said().arguments(),
        "--port",
        str(port),
        "--max-bytes",
        str(_MAX_BYTES),
        "--max-waiting",
        str(4 * clients),
    ]
    line += ["--body-timeout", str(_SLOWEST), "--header-timeout", str(_SLOWEST)]
    process = subprocess.Popen(line, start_new_session=True)
    try:
        while not _healthy(port):
            if process.poll() is not None:
                raise ModelError(f"The server ended with status {process.returncode} before it was ready.")
            time.sleep(0.5)
        yield process, port
    finally:
        family = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs([psutil.Process(process.pid), *family] if family else [], timeout=60)
        for each in left:
            os.kill(each.pid, signal.SIGKILL)
        process.wait()
        if left and sys.exc_info()[0] is None:
            raise ModelError(f"The server left {len(left)} processes behind.")


def _healthy(port: int) -> bool:
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _memory(process: subprocess.Popen[bytes]) -> int:
    """Resident bytes of a server and all its processes; pages that they share count once (Linux)."""
    import psutil

    server = psutil.Process(process.pid)
    return sum(each.memory_full_info().pss for each in (server, *server.children(recursive=True)))
