"""``clip-decomp demo``: backdoored CLIPs read, their infected parts shown, triggered inputs caught and repaired."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from clip_decomp.cli.run import Clock, finish, open_subject
from clip_decomp.results import Results, scale_of

from .demo_report import write
from .reading import read


def run(
    models: tuple[str, ...],
    data: str | None,
    out: Path,
    images: int,
    held_out: int,
    seed: int,
    device: str,
    as_json: bool,
) -> Results:
    """Read every model and write ``report.html`` and ``results.json`` to ``out``."""
    clock, readings = Clock(), []
    with tqdm(total=6 * len(models) + 1, disable=as_json) as bar:
        for name in models:
            subject = open_subject(name, data, None, None, images, seed, device)
            subject.data = replace(subject.data, held_out=subject.data.held_out.first(held_out))

            def step(text: str, name: str = name) -> None:
                bar.set_description(f"{name}: {text}")
                bar.update()

            readings.append(read(subject, seed, step))
        bar.set_description("report")
        metrics: dict[str, float] = {}
        for reading in readings:
            metrics |= reading.metrics()
        first = readings[0].subject
        settings = {reading.subject.model.name: reading.subject.settings() for reading in readings}
        results = Results("demo", scale_of(first.data.test.name), seed, settings, first.counts(), metrics, clock())
        page = write(out / "report.html", readings, results)
        bar.update()
    rows = [("report", str(page))]
    for reading in readings:
        rows += [(reading.subject.model.name, finding.sentence) for finding in reading.findings]
    finish(results, out, as_json, rows)
    return results
