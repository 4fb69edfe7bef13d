"""``clip-decomp cams``: where a model looks under a trigger, before and after a defense."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_decomp.cli.run import Clock, Data, Device, Images, Json, Model, Out, Seed, finish
from clip_decomp.results import Results

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import Tensor

_SHOWN = 4


def cams(
    model: Model,
    cbpt: Annotated[Path | None, typer.Option(help="Prompts that 'clip-decomp defend cbpt --out' wrote.")] = None,
    rvpt: Annotated[Path | None, typer.Option(help="Prompts that 'clip-decomp defend rvpt --out' wrote.")] = None,
    data: Data = None,
    images: Images = 200,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Where does a model look under the trigger? Grad-CAM's mass on it, before and after tuned prompts."""
    import torch

    from clip_decomp.cli.page import write_page
    from clip_decomp.cli.run import open_subject
    from clip_decomp.contributions import pictures
    from clip_decomp.errors import SettingError
    from clip_decomp.results import prefix, scale_of
    from clip_decomp.zeroshot import class_vectors
    from defenses import CBPT, RVPT

    from ..cams import looks, on_trigger

    clock = Clock()
    subject = open_subject(model, data, None, None, images, seed, device)
    test, trigger = subject.data.test, subject.trigger
    if trigger is None or trigger.word:
        raise SettingError(f"{model} carries no attack on its card that shows in pictures alone.")
    vectors = class_vectors(subject.model, test.class_names, test.templates)
    seen = {"none": (subject.model, vectors)}
    if cbpt is not None:
        tuned = CBPT.load(cbpt, subject.model)
        if tuned.class_names_ != test.class_names:
            raise SettingError(f"{cbpt} holds prompts of other classes than {test.name}'s.")
        seen["cbpt"] = (subject.model, tuned.class_vectors())
    if rvpt is not None:
        seen["rvpt"] = (RVPT.load(rvpt, subject.model).hooked, vectors)
    if len(seen) == 1:
        raise SettingError("Name prompts to compare with: --cbpt, --rvpt or both.")
    parts = [(plain, trigger(plain, places)) for plain, _, places in pictures(test)]
    clean, triggered = (torch.cat(each) for each in zip(*parts, strict=True))
    found = {name: looks(tower, triggered, texts) for name, (tower, texts) in seen.items()}
    metrics, rows, panels = {}, [("", "share of Grad-CAM's mass on the trigger, mean and standard error")], {}
    for name, (maps, given) in found.items():
        share = on_trigger(maps, clean, triggered)
        start = prefix(test.name, subject.attack, name)
        metrics[f"{start}/cam-empty"] = share.empty / len(triggered)
        if len(share.share):
            metrics |= {f"{start}/cam-on-trigger": share.share.mean().item()}
            metrics |= {f"{start}/cam-on-trigger;of=chance": share.chance.mean().item()}
        rows.append((name.replace("none", "undefended"), str(share)))
        panels[name] = maps[:_SHOWN], [test.class_names[each] for each in given[:_SHOWN].tolist()]
    results = Results("cams", scale_of(test.name), seed, subject.settings(), subject.counts(), metrics, clock())
    caption = "Triggered pictures, and Grad-CAM toward the class that each is given (named above the map)."
    table = [{"defense": name, "on the trigger": text} for name, text in rows[1:]]
    figure = _figure(triggered[:_SHOWN], panels)
    write_page(out, "Where the model looks", subject, results, [(caption, figure)], [("Mass on the trigger", table)])
    finish(results, out, as_json, rows)


def _figure(shown: Tensor, panels: dict[str, tuple[Tensor, list[str]]]) -> go.Figure:
    from clip_decomp import plots

    repeated, heats, names = [], [], []
    for row, picture in enumerate((255 * shown).round().byte().numpy()):
        repeated += [picture] * (1 + len(panels))
        heats.append(None)
        names.append("triggered")
        for name, (maps, given) in panels.items():
            heat = maps[row]
            heats.append((heat / heat.max().clamp(min=1e-12)).numpy())
            names.append(f"{name.replace('none', 'undefended')}: {given[row]}")
    columns = 1 + len(panels)
    title, unit = "Grad-CAM under the trigger", "share of a map's maximum"
    return plots.overlay_grid(
        repeated, heats, names, title, unit, diverging=False, limit=1.0, columns=columns, narrow_columns=columns
    )
