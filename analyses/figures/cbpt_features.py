"""Figures 2 and 4 of CBPT (Kong et al. 2025): where triggered pictures lie, and where the model looks.

The figures' shapes are ours; :mod:`clip_decomp.methods.embedding` and :mod:`analyses.cams` define their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp import plots
from clip_decomp.contributions import pictures
from clip_decomp.results import prefix
from clip_decomp.zeroshot import class_vectors
from defenses import CBPT

from ..cams import OnTrigger, looks, on_trigger
from .bench import Bench
from .cbpt import ATTACKS, MAIN, NOTE
from .items import Drawn, Item, Verdict, called
from .tuned import every

_MANY, _SHOWN = 200, 4


def cams(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 4: Grad-CAM of triggered pictures before and after each defense."""
    drawn, rows = Drawn("Grad-CAM toward the class that each triggered picture is given."), []
    for attack in attacks:
        subject = bench[attack].subject
        assert subject.trigger is not None
        test = subject.data.test.first(_MANY)
        sides = [torch.cat([pixels for pixels, _, _ in pictures(test, each)]) for each in (None, subject.trigger)]
        plain = class_vectors(subject.model, test.class_names, test.templates)
        views = {"undefended": (subject.model, plain)}
        for case, make in MAIN.items():
            tuned = bench.tuned(make(attack)[0])
            if isinstance(tuned, CBPT):
                views["CBPT"] = (subject.model, tuned.class_vectors())
            elif tuned is not None:
                views[case] = (tuned, class_vectors(tuned, test.class_names, test.templates))
        found: dict[str, OnTrigger] = {}
        seen = {name: looks(model, sides[1], vectors) for name, (model, vectors) in views.items()}
        for name, (heat, _) in seen.items():
            found[name] = on_trigger(heat, *sides)
            share, chance = (float(each.mean()) for each in (found[name].share, found[name].chance))
            rows.append(
                {
                    "attack": called(attack),
                    "model": name,
                    "on the trigger": share,
                    "by chance": chance,
                    "empty": found[name].empty,
                }
            )
            start = prefix(test.name, attack.rpartition("/")[2], "none" if name == "undefended" else name.lower())
            if len(found[name].share):
                drawn.metrics[f"{start}/gradcam-on-trigger{_tower(attack)}"] = share
        caption = f"{called(attack)}; with the class that each picture is given. A map that is zero is left out."
        drawn.figures.append((caption, _grid(attack, sides[1], seen, test.class_names)))
        if "CBPT" in found:
            drawn.verdicts += _looks_away(attack, found["undefended"], found["CBPT"])
            drawn.verdicts += _looks_least(attack, found)
    drawn.tables.append((f"Share of the maps' mass on the trigger, {_MANY} pictures at most.", pd.DataFrame(rows)))
    return drawn


def _tower(attack: str) -> str:
    """The end of a metric's name for a model that is not of the main tower."""
    family = attack.rpartition("/")[0]
    return f";family={family}" if family else ""


def _grid(
    attack: str,
    pixels: Float[Tensor, "image 3 y x"],
    seen: Mapping[str, tuple[Tensor, Tensor]],
    classes: Sequence[str],
) -> go.Figure:
    """Maps of a few pictures in every view, of those that have one in all views first."""
    there = torch.stack([heat.flatten(1).sum(1) > 0 for heat, _ in seen.values()]).sum(0)
    few = there.argsort(descending=True, stable=True)[:_SHOWN].tolist()
    shown, heats, names = [], [], []
    for name, (heat, given) in seen.items():
        for number in few:
            largest = heat[number].max()
            shown.append((pixels[number] * 255).round().to(torch.uint8).numpy())
            heats.append((heat[number] / largest).numpy() if largest > 0 else None)
            names.append(f"{name}: {classes[int(given[number])]}{'' if largest > 0 else ', no map'}")
    title, columns = f"{called(attack)}: Grad-CAM of triggered pictures", len(few)
    return plots.overlay_grid(
        shown, heats, names, title, "share of the largest", diverging=False, columns=columns, narrow_columns=2
    )


def _looks_away(attack: str, undefended: OnTrigger, defended: OnTrigger) -> list[Verdict]:
    """Of pictures that have a map both times; none where a map cannot but lie on the trigger, or few have one."""
    both = undefended.there & defended.there
    if not _telling(both, undefended):
        return []
    before, after = (float(each.share[both[each.there]].mean()) for each in (undefended, defended))
    rule = (
        "the share of the maps' mass that lies on the trigger falls, of pictures that have a map both times; decided "
        "where half of the pictures have and the trigger takes up at most half of a map"
    )
    claim = f"{called(attack)}: CBPT looks less at the trigger"
    evidence = f"{before:.1%} to {after:.1%} of {int(both.sum())} pictures"
    return [Verdict(claim, rule, after < before, evidence)]


def _telling(there: Bool[Tensor, " image"], each: OnTrigger) -> bool:
    """Whether half of the pictures have maps, and the trigger takes up at most half of one."""
    return bool(there.float().mean() >= 0.5 and each.chance.mean() <= 0.5)


def _looks_least(attack: str, found: Mapping[str, OnTrigger]) -> list[Verdict]:
    """CBPT beside what fine-tunes, of pictures that have a map under each; none where :func:`_looks_away` has none."""
    defended = {name: each for name, each in found.items() if name != "undefended"}
    every = torch.stack([each.there for each in defended.values()]).all(0)
    if len(defended) < 2 or "CBPT" not in defended or not _telling(every, defended["CBPT"]):
        return []
    shares = {name: float(each.share[every[each.there]].mean()) for name, each in defended.items()}
    own, rivals = shares["CBPT"], {name: share for name, share in shares.items() if name != "CBPT"}
    rule = (
        "under no other defense a smaller share of the maps' mass lies on the trigger, of pictures that have a map "
        "under each; decided where half of the pictures have and the trigger takes up at most half of a map"
    )
    claim = f"{called(attack)}: CBPT looks less at the trigger than fine-tuned models"
    told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return [Verdict(claim, rule, own <= min(rivals.values()), told)]


def embeddings(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 2: where triggered pictures lie beside those of the target class."""
    drawn, rows = Drawn("t-SNE of the undefended model's representations; CBPT leaves these as they are."), []
    for attack in attacks:
        subject = bench[attack].subject
        test = subject.data.test
        found = bench[attack].embedded(subject.model, test)
        drawn.figures.append(
            (f"{called(attack)}, {len(test)} pictures.", plots.embedding_map(found, test.class_names, called(attack)))
        )
        numbers = found.metrics(prefix(test.name, attack.rpartition("/")[2], "none"))
        drawn.metrics |= {f"{key}{_tower(attack)}": value for key, value in numbers.items()}
        apart, toward = found.numbers.triggered_silhouette_apart, found.numbers.nearest_mean_target or 0.0
        rows.append(
            {
                "attack": called(attack),
                "apart from the nearest class (silhouette)": apart,
                "nearest mean is the target's": toward,
            }
        )
        rule = (
            "nine in ten triggered pictures are nearest to the target's mean; their silhouette against it is above 0.25"
        )
        evidence = f"{toward:.1%}, silhouette {apart:.2f}"
        claim = f"{called(attack)}: triggered pictures lie at the target class, yet apart from it"
        drawn.verdicts.append(Verdict(claim, rule, toward >= 0.9 and apart > 0.25, evidence))
    drawn.tables.append(("Numbers in the feature space.", pd.DataFrame(rows)))
    return drawn


ITEMS = (
    Item("cbpt-f2", "t-SNE of the backdoored model", "Kong et al. 2025, figure 2", ATTACKS, embeddings),
    Item("cbpt-f4", "Grad-CAM", "Kong et al. 2025, figure 4", ATTACKS, cams, every(MAIN, ATTACKS), note=NOTE),
)
