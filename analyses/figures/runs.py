"""Drawing figures into folders, one a figure: what is there with the same settings is not drawn again.

A folder appears in one step, when all that is in it is written. Several processes, on several machines if they share
the disk, take figures that no other is drawing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io
from filelock import FileLock, Timeout

from clip_decomp.cli.run import Clock
from clip_decomp.errors import ClipDecompError
from clip_decomp.report import Section, cell, write_report
from clip_decomp.results import Results

from .bench import Bench
from .digest import digest_of
from .items import Drawn, Item, Measured, Verdict
from .setting import Setting
from .trainings import trainings_of

log = logging.getLogger(__name__)

#: Of a figure whose paper claims nothing of it, or nothing that its numbers could decide.
UNDECIDED = "No claim is decided here."
#: Pixels of PNG files, before they are doubled for print.
_WIDTH = 1000


@dataclass(frozen=True)
class Run:
    """One figure's folder.

    Attributes:
        state: ``drawn``, ``there``, or ``left out``.
        left_out: attacks that it was not drawn from, and why; ``all`` is why it was not drawn at all.
    """

    item: Item
    folder: Path
    state: str
    left_out: dict[str, str]


def run(items: Sequence[Item], setting: Setting, out: Path) -> Iterator[Run]:
    """Draw what is not there yet; what other processes are drawing is waited for at the end."""
    bench, busy = Bench(setting, out / "measured"), []
    (out / "locks").mkdir(parents=True, exist_ok=True)
    for wait, chosen in ((0.0, items), (-1.0, busy)):
        for item in chosen:
            try:
                with FileLock(out / "locks" / item.name, timeout=wait):
                    yield _one(item, bench, out / item.name)
            except Timeout:
                busy.append(item)


def _one(item: Item, bench: Bench, folder: Path) -> Run:
    needed = dict.fromkeys([*item.attacks, *(each.attack for each in item.trainings)])
    left_out = {attack: why for attack in needed if (why := bench.refused(attack)) is not None}
    ready = [each for each in trainings_of(item) if each.attack not in left_out and bench.known(each) is not None]
    trained = {each.attack for each in ready if each in item.trainings}
    for attack in dict.fromkeys(each.attack for each in item.trainings):
        if attack not in left_out and attack not in trained:
            left_out[attack] = f"no defense is trained yet (clip-decomp figures {item.name} --train)"
    attacks = tuple(attack for attack in item.attacks if attack not in left_out)
    if not attacks:
        return Run(item, folder, "left out", left_out | {"all": "nothing that it is drawn from is there"})
    digest = digest_of(item, bench, attacks, ready, left_out)
    found = settings_of(folder)
    if found is not None and found.get("digest") == digest:
        _complete(folder)
        return Run(item, folder, "there", left_out)
    log.info("%s: %s", item.name, ", ".join(attacks))
    clock = Clock()
    try:
        drawn = item.draw(bench, attacks)
    except ClipDecompError as error:  # the others can be drawn all the same
        return Run(item, folder, "left out", left_out | {"all": str(error)})
    if not drawn.figures and all(table.empty for _, table in drawn.tables):
        return Run(item, folder, "left out", left_out | {"all": "this scale has none of the data that it shows"})
    settings = {**asdict(bench.setting), "models": str(bench.setting.models), "attacks": attacks, "left_out": left_out}
    settings |= {"digest": digest, "verdicts": [asdict(each) for each in drawn.verdicts]}
    counts = {"images": bench.setting.images, "held_out": bench.setting.held_out, "attacks": len(attacks)}
    name, seed = f"figures {item.name}", bench.setting.seed
    results = Results(name, bench.setting.scale, seed, settings, counts, drawn.metrics, clock())
    _write(folder, item, drawn, results)
    return Run(item, folder, "drawn", left_out)


def settings_of(folder: Path) -> dict[str, Any] | None:
    """Settings of the figure in a folder, None if there is none."""
    file = folder / "results.json"
    return json.loads(file.read_text())["settings"] if file.exists() else None


def _write(folder: Path, item: Item, drawn: Drawn, results: Results) -> None:
    """A folder with all its files, in place of an older one."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    for stale in folder.parent.glob(f".{folder.name}.*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for number, (_, figure) in enumerate(drawn.figures, 1):
            (draft / f"figure-{number}.json").write_text(str(figure.to_json()))
        for number, (_, table) in enumerate(drawn.tables, 1):
            table.to_csv(draft / f"table-{number}.csv", index=False)
            (draft / f"table-{number}.md").write_text(markdown(table))
        captions = {"figures": [caption for caption, _ in drawn.figures], "tables": [name for name, _ in drawn.tables]}
        pd.DataFrame(drawn.measured, columns=list(Measured._fields)).to_csv(draft / "measured.csv", index=False)
        (draft / "shown.json").write_text(json.dumps({"text": drawn.text, **captions}, indent=1) + "\n")
        _write_pngs(draft, [figure for _, figure in drawn.figures])
        results.write(draft)
        section = section_of(item, draft)
        write_report(draft / "figure.html", item.title, drawn.text, [section], facts(results.to_dict()))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _complete(folder: Path) -> None:
    """Pictures of a figure that was drawn before they could be written."""
    drawn = sorted(folder.glob("figure-*.json"), key=lambda file: int(file.stem.partition("-")[2]))
    if find_spec("kaleido") and not all(file.with_suffix(".png").exists() for file in drawn):
        _write_pngs(folder, [plotly.io.from_json(file.read_text()) for file in drawn])


def _write_pngs(folder: Path, figures: Sequence[go.Figure]) -> None:
    """Pictures of all figures, where kaleido and a browser for it are installed."""
    if not figures:
        return
    files = [folder / f"figure-{number}.png" for number in range(1, len(figures) + 1)]
    heights = [figure.layout.height for figure in figures]
    try:
        plotly.io.write_images(figures, files, width=_WIDTH, height=heights, scale=2)
    except (ImportError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        log.warning("No PNG files: they need kaleido and Chrome or Chromium (%s).", reason)


def section_of(item: Item, folder: Path) -> Section:
    """A figure's part of a page, from its folder."""
    shown, settings = json.loads((folder / "shown.json").read_text()), settings_of(folder)
    assert settings is not None
    said = [Verdict(**each).sentence for each in settings["verdicts"]] or [UNDECIDED]
    rules = list(dict.fromkeys(each["rule"] for each in settings["verdicts"]))
    left_out = [f"Left out: {attack}, {why}." for attack, why in settings["left_out"].items()]
    paragraphs = [
        shown["text"],
        *([item.note] if item.note else []),
        *said,
        *(f"Rule: {rule}." for rule in rules),
        *left_out,
    ]
    figures = [
        (
            f"{caption} {_counted(settings, caption)}",
            plotly.io.from_json((folder / f"figure-{number}.json").read_text()),
        )
        for number, caption in enumerate(shown["figures"], 1)
    ]
    tables = [
        (caption, pd.read_csv(folder / f"table-{number}.csv")) for number, caption in enumerate(shown["tables"], 1)
    ]
    return Section(f"{item.title} ({item.source})", "\n\n".join(paragraphs), figures=figures, tables=tables)


def _counted(settings: dict[str, Any], caption: str) -> str:
    """Scale, pictures and seed of a figure, whose caption may know its pictures better."""
    pictures = "" if "pictures" in caption else f"at most {settings['images']} test pictures a model; "
    return f"Scale {settings['scale']}; {pictures}seed {settings['seed']}."


def facts(results: dict[str, Any]) -> dict[str, str]:
    """What a page says of a run beside its title."""
    settings = results["settings"]
    return {
        "Scale": results["scale"],
        "Pictures": f"at most {settings['images']} test pictures a model, {settings['held_out']} held-out clean ones",
        "Attacks": ", ".join(settings["attacks"]),
        "Seed": str(results["seed"]),
        "Time": f"{results['seconds']:.0f} seconds",
        "Versions": ", ".join(f"{key} {value}" for key, value in results["versions"].items()),
    }


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown.

    Example:
        >>> print(markdown(pd.DataFrame({"attack": ["badnet"], "ASR": [0.97]})), end="")
        | attack | ASR |
        | --- | --- |
        | badnet | 0.970 |
    """
    lines = [[str(column) for column in table.columns], ["---"] * len(table.columns)]
    lines += [[cell(value).replace("|", "\\|") for value in row] for row in table.itertuples(index=False)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
