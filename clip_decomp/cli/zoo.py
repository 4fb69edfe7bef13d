"""``clip-decomp zoo``: the models that ship with the package, and those built by recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..results import Results
from .run import Clock, Device, Images, Json, Out, Workers, check_device, finish

app = typer.Typer(help="Verified models: those that ship, and those built by recipe.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name from 'zoo list'.")]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Names, attack and target, and expected numbers."""
    from .. import zoo
    from ..errors import ModelError

    metrics, rows = {}, []
    for name in zoo.buildable():
        if not zoo.available(name):
            rows.append((name, "not built yet: clip-decomp zoo build " + name))
            continue
        try:
            card = zoo.card(name)
        except ModelError as error:
            rows.append((name, str(error)))
            continue
        expected, own = card["expected"], f"{card['data']}/"
        metrics.update({f"{name}: {key}": value for key, value in expected.items()})
        main = [f"{key.split('/')[-1]} {value:.1%}" for key, value in expected.items() if key.startswith(own)]
        attack = card.get("attack")
        what = f"{attack['trigger']['name']}, target {attack['target']}: " if attack else ""
        rows.append((name, what + ", ".join(main)))
    finish(Results("zoo list", "world", 0, metrics=metrics), None, as_json, rows)


@app.command()
def build(name: Name, out: Out = None, device: Device = "cpu", workers: Workers = 0) -> None:
    """Make a model by its recipe; without --out it is cached, so that its name loads (of models that ship the shipped
    one does). An interrupted run resumes.
    """
    from .. import zoo
    from ..training.parallel import launched

    clock, folder = Clock(), out or zoo.cache(name)
    model = zoo.build(name, folder, device=check_device(device), workers=workers)
    if not launched(model.device).main:
        return
    expected = model.card["expected"]
    results = Results("zoo build", "world", 0, {"name": name}, {}, expected, clock())
    rows = [("model", str(folder)), *((key, f"{value:.1%}") for key, value in expected.items())]
    finish(results, folder, False, rows)


@app.command()
def verify(name: Name, images: Images = None, as_json: Json = False) -> None:
    """Check a model's hash and measure its numbers again; fails if one differs."""
    from .. import zoo
    from ..errors import ModelError

    clock = Clock()
    checks = zoo.verify(name, images)
    metrics = {check.what: check.found for check in checks if isinstance(check.found, float)}
    rows = [
        (check.what, f"{'ok' if check.ok else 'DIFFERS'}: card {_show(check.expected)}, found {_show(check.found)}")
        for check in checks
    ]
    finish(Results("zoo verify", "world", 0, {"name": name}, {}, metrics, clock()), None, as_json, rows)
    wrong = [check.what for check in checks if not check.ok]
    if wrong:
        raise ModelError(f"{name} is not what its card says: {', '.join(wrong)}.")


@app.command()
def export(name: Name, out: Annotated[Path, typer.Option(help="Folder to write to.")]) -> None:
    """Copy a model: its folder, and what open_clip and transformers read."""
    from .. import zoo

    finish(Results("zoo export", "world", 0), None, False, [("written", str(zoo.export(name, out)))])


def _show(value: float | str) -> str:
    return value[:12] if isinstance(value, str) else f"{value:.1%}"
