"""``clip-decomp audit``: is this model backdoored at all?"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Clock, Device, Json, Model, Out, Seed, finish
from clip_decomp.results import Results, prefix, scale_of

from .subjects import own_pictures

if TYPE_CHECKING:
    from clip_decomp.data.unlabelled import Unlabelled
    from clip_decomp.model import HookedCLIP
    from clip_decomp.report import Section

    from ..audit import Scan
    from ..carriers import Carrier

_SHOWN, _CLASSES_SHOWN = 8, 40


def audit(
    model: Model,
    images: Annotated[
        str | None, typer.Option(help="Folder of pictures, labelled or not, or data; the card's by default.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with a class name a line; the folders' or the card's by default.")
    ] = None,
    count: Annotated[int, typer.Option(help="At most this many pictures.")] = 192,
    template: Annotated[
        str | None, typer.Option(help="Template of prompts, '{}' the class; the data's by default.")
    ] = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of the same kind without a backdoor, to calibrate the threshold on; repeat. With "
            "--pretrained, other weights: a tag or a file."
        ),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Scores beyond it are suspicious.")] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Is a model backdoored? Find what takes all pictures to a class, and compare how cheap that is between classes."""
    from clip_decomp.cli.weights import open_beside, open_model
    from clip_decomp.errors import SettingError
    from clip_decomp.models.hooked_vit import HookedViT
    from clip_decomp.zeroshot import class_vectors

    from ..audit import THRESHOLD, Audit
    from ..carriers import carriers

    if clean and threshold is not None:
        raise SettingError("Give a threshold, or clean models to calibrate it on, not both.")
    if threshold is not None and not threshold > 0:
        raise SettingError(f"A threshold of scores is more than 0, not {threshold}.")
    clock, hooked = Clock(), open_model(model, device)
    data, names = pictures(hooked, images, classes, count, seed)
    templates = data.templates if template is None else (template,)

    def scan(each: HookedCLIP, folder: str) -> Scan:
        made = Audit(seed=seed, checkpoint=None if out is None else out / folder, progress=not as_json)
        return made.scan(each, data.pixels, names, templates)

    for name in clean or ():
        open_beside(model, name, device)  # complains before anything is scanned
    found = scan(hooked, "scan")
    calibrated = {
        name: scan(open_beside(model, name, device), f"clean-{k}").score for k, name in enumerate(clean or ())
    }
    limit = max(calibrated.values()) if calibrated else THRESHOLD if threshold is None else threshold
    suspicious = [names[each] for each in found.ranking.tolist() if found.scores[each] > limit]
    parts: list[Carrier] = []
    if suspicious and isinstance(hooked.visual, HookedViT):
        label, vectors = names.index(suspicious[0]), class_vectors(hooked, names, templates)
        after = (data.pixels + found.triggers[label]).clamp(0, 1)
        parts = carriers(hooked, data.pixels, after, vectors[label] - vectors.mean(0))
    results = _results(hooked, data, found, suspicious, limit, seed, clock())
    told = bound(limit, len(calibrated), threshold is not None)
    results.settings |= {"templates": list(templates), "clean_models": calibrated, "unscanned": list(found.unscanned)}
    results.settings["threshold_told"] = told
    cure = [("to take it out", remedy(hooked, model, suspicious[0]))] if suspicious else []
    results.settings |= {"remedy": cure[0][1]} if cure else {}
    if out is not None:
        _report(out / "report.html", hooked, data, found, suspicious, limit, results, parts)
    rows = [("verdict", verdict(suspicious)), ("threshold", told)]
    for each in found.ranking[:3].tolist():
        rows.append((names[each], _told(found, each)))
    rows += [(f"carried by {part.name}", f"{part.share:.0%} of the change") for part in parts[:5]]
    rows += [("not scanned", _unscanned(found))] if found.unscanned else []
    finish(results, out, as_json, rows + cure)


def pictures(
    model: HookedCLIP, images: str | None, classes: Path | None, count: int | None, seed: int
) -> tuple[Unlabelled, tuple[str, ...]]:
    """What is audited with: pictures, and the class names of a file, of the pictures' folders or of the card's data.

    Raises:
        SettingError: nobody says where pictures are, or which classes there are.
    """
    from clip_decomp.data import open_data
    from clip_decomp.data.unlabelled import read_class_names
    from clip_decomp.errors import SettingError

    own, side = model.card.get("data"), model.visual.image_size
    data = own_pictures(model, images, count, seed)
    if classes is not None:
        return data, read_class_names(classes)
    if data.class_names is not None:
        return data, data.class_names
    if own is not None and scale_of(own) == "world":
        return data, open_data(own, side).test.class_names
    raise SettingError(f"{images or own} has no folder for each class: name classes with --classes FILE.")


def verdict(suspicious: list[str]) -> str:
    """What the audit says; never that a model is clean."""
    return f"suspicious: {', '.join(suspicious)}" if suspicious else "nothing found"


def bound(limit: float, clean: int, given: bool) -> str:
    """A threshold, and what is known of how often models without a backdoor lie beyond it.

    Args:
        clean: how many models set it: the largest score of n is exceeded by one further such model in n + 1.
        given: whether somebody chose it.
    """
    if clean:
        return f"{limit:.2f}, the largest of {clean} clean: 1 in {clean + 1} further ones of the kind lies beyond it"
    return f"{limit:.2f}" if given else f"{limit:.2f}, measured on tiny CLIPs of the embedded world alone"


def remedy(model: HookedCLIP, named: str, suspect: str) -> str:
    """The command that takes a suspect out: visual prompts where there are tokens to prompt, text prompts elsewhere.

    Args:
        named: what ``--model`` was.
    """
    from clip_decomp.cli.weights import said
    from clip_decomp.models.hooked_vit import HookedViT
    from clip_decomp.models.pooling import AttentionPooled

    visual = model.visual
    promptable = isinstance(visual, HookedViT) and not isinstance(visual.readout, AttentionPooled)
    names = shlex.join(["--model", named, *said().arguments(), "--aim", suspect])
    return f"clip-decomp defend {'rvpt' if promptable else 'cbpt'} {names} --data LABELLED_PICTURES --out runs/fixed"


def _told(found: Scan, each: int) -> str:
    cost, share, others = 255 * found.costs[each], found.shares[each], found.pictures[1]
    return f"score {found.scores[each]:.2f}: noise of {cost:.2f}/255 takes {share:.0%} of {others} other pictures there"


def _unscanned(found: Scan) -> str:
    return f"{', '.join(found.unscanned)}: nearly all pictures are taken for it as they are"


def _results(
    model: HookedCLIP, data: Unlabelled, found: Scan, suspicious: list[str], limit: float, seed: int, seconds: float
) -> Results:
    start = prefix(data.name, model.trigger.name if model.trigger is not None else "unknown", "none")
    metrics = {f"{start}/audit-score": found.score}
    for name, score, cost, share in zip(found.class_names, found.scores, found.costs, found.shares, strict=True):
        if name in found.unscanned:
            continue
        metrics |= {f"{start}/audit-score;class={name}": score.item()}
        metrics |= {f"{start}/audit-cost;class={name}": cost.item(), f"{start}/audit-share;class={name}": share.item()}
    settings: dict[str, Any] = {"model": model.name, "images": data.name, "threshold": limit}
    settings |= {"verdict": verdict(suspicious), "suspicious": suspicious}
    counts = {"made_on": found.pictures[0], "tried_on": found.pictures[1], "classes": len(found.class_names)}
    counts |= {"skipped": len(data.skipped), "skipped_images": list(data.skipped)}
    return Results("audit", scale_of(data.name), seed, settings, counts, metrics, seconds)


def _report(
    path: Path,
    model: HookedCLIP,
    data: Unlabelled,
    found: Scan,
    suspicious: list[str],
    limit: float,
    results: Results,
    parts: list[Carrier],
) -> None:
    from clip_decomp import plots
    from clip_decomp.report import Section, write_report

    names, first = found.class_names, int(found.ranking[0])
    scanned = len(names) - len(found.unscanned)  # the others are ranked last
    shown = found.ranking[: min(scanned, _CLASSES_SHOWN)].tolist()
    figure = plots.ranked_costs(
        [names[each] for each in shown],
        [255 * found.costs[each].item() for each in shown],
        255 * min(found.score * found.costs[first].item() / limit, 1.02 * found.highest),
        255 * found.highest,
        "Cost of taking everything to a class",
        "noise, root mean square (of 255)",
    )
    table = [
        {
            "class": names[each],
            "score": f"{found.scores[each]:.2f}",
            "noise (of 255)": f"{'over ' if found.costs[each] >= found.highest else ''}{255 * found.costs[each]:.2f}",
            "other pictures taken": f"{found.shares[each]:.0%}",
        }
        for each in shown
    ]
    sections = [
        Section(
            "Costs",
            "One noise for all pictures was grown for each class until it took nine in ten of them. A class's score is "
            "the lower quartile of the others' costs over its own; it is suspicious beyond "
            f"{results.settings['threshold_told']}.",
            [("Each dot is a class; one that is left of the dotted line looks like a shortcut.", figure)],
            [("The cheapest classes" if len(shown) < scanned else "All classes that were scanned", table)],
        ),
        _pictured(data, found, first),
    ]
    if parts:
        largest = [
            {"component": part.name, "change": f"{part.change:+.3f}", "share": f"{part.share:.0%}"}
            for part in parts[:10]
        ]
        text = (
            f"What heads and MLPs write towards {suspicious[0]!r} with the noise less what they write without it, mean "
            f"over {len(data.pixels)} pictures. Shares add up to 100 % over all components; some are negative."
        )
        sections.append(Section("What carries it", text, tables=[("The ten largest changes", largest)]))
    said_first = verdict(suspicious)
    lead = (
        f"{said_first[:1].upper()}{said_first[1:]}. The cheapest class is {names[first]!r}: {_told(found, first)}."
        "\n\nThis is evidence, not proof. A class may be cheap to reach without a backdoor, and a backdoor may need "
        "a trigger that no small noise imitates, or aim at a class that was not asked about."
    )
    if found.unscanned:
        lead += f"\n\nNot scanned: {_unscanned(found)}. Whether it is a shortcut is not known; show other pictures."
    if suspicious:
        lead += f"\n\nTo take it out: {results.settings['remedy']}."
    facts = {
        "Model": model.name,
        "Pictures": f"{len(data.pixels)} of {data.name}, labels unused",
        "Classes": str(len(names)),
        "Seed": str(results.seed),
        "Seconds": f"{results.seconds:.0f}",
    }
    write_report(path, "Is this model backdoored?", lead, sections, facts)


def _pictured(data: Unlabelled, found: Scan, label: int) -> Section:
    """Pictures, the same with the noise of a class, and the noise itself."""
    import torch

    from clip_decomp import plots
    from clip_decomp.report import Picture, Section

    spread = torch.linspace(0, len(data.pixels) - 1, _SHOWN).long()  # a folder's first are all of one class
    noise, shown = found.triggers[label], data.pixels[spread]
    amplified = (0.5 + 0.4 * noise / noise.abs().max().clamp(min=1e-9))[None]
    rows = [(255 * each.clamp(0, 1)).round().byte().numpy() for each in (shown, shown + noise, amplified)]
    name = found.class_names[label]
    uri = plots.pictures([list(row) for row in rows])
    labels = ("as they are", f"with the noise of {name}", "the noise, amplified")
    return Section("The inverted trigger", images=[Picture(f"The noise that takes pictures to {name}.", uri, labels)])
