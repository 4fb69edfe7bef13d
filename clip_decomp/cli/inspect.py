"""``clip-decomp inspect``: one head on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..results import Results, prefix, scale_of
from .run import Attack, Clock, Data, Device, Images, Json, Model, Out, Seed, Target, finish, open_subject


def inspect(
    model: Model,
    head: Annotated[str, typer.Option(help="The head, layer and head counted from zero, e.g. L11H3.")],
    data: Data = None,
    attack: Attack = None,
    target: Target = None,
    texts: Annotated[Path | None, typer.Option(help="File of texts to choose from; the package's by default.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Show pictures for this text too; may be repeated.")] = None,
    images: Images = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """One head on one page: texts, role, pictures, token maps, MMD, and what depends on it."""
    from ..ablation.parts import Part
    from ..errors import SettingError
    from ..texts import read_pool

    clock = Clock()
    part = Part.parse(head)
    if part.kind != "head":
        raise SettingError(f"{head} is no head: heads are written L11H3.")
    pool = read_pool(texts) if texts is not None else None
    subject = open_subject(model, data, attack, target, images, seed, device)
    test = subject.data.test
    # Without an attack a target that was asked for is a class whose text is shown.
    goal = subject.target or target
    found = subject.model.head(part.layer, part.index).inspect(
        test, subject.data.held_out, subject.trigger, goal, pool, text or (), seed=seed, progress=True
    )
    folder = out or Path("runs/inspect")
    page = found.save(folder / f"{found.name}.html")
    settings = {
        **subject.settings(),
        "head": found.name,
        "texts": str(texts) if texts is not None else None,
        "pool": len(found.pool),
        "mmd": None if found.mmd is None else {"sigma": list(found.mmd.sigma), "permutations": found.mmd.permutations},
    }
    metrics = found.metrics(prefix(test.name, subject.attack, "none"))
    results = Results("inspect", scale_of(test.name), seed, settings, subject.counts(), metrics, clock())
    rows = [("page", str(page)), ("texts", "; ".join(found.to_frame().text.head(3)))]
    if found.roles is not None and found.mmd is not None:
        roles = found.roles
        rows += [
            ("texts, triggered", "; ".join((roles.triggered.texts or ())[:3])),
            (roles.verdict, f"similarity {roles.similarity:.3f}, clean halves {roles.kept:.3f}"),
            ("MMD² x 1000", f"{found.mmd.value:.3g}, p = {found.mmd.p_value:.3f}"),
        ]
    for each in found.ablated:
        name = "as it is" if each.effect == "none" else f"ablated, {each.effect} effect"
        success = "" if each.attack_success_rate is None else f"ASR {each.attack_success_rate}, "
        rows.append((name, f"{success}clean accuracy {each.clean_accuracy}"))
    finish(results, folder, as_json, rows)
