"""What RVPT does to features (Zhang et al. 2025): figures 1 and 8 to 10, 5, 6 and 7.

Limits: figure 5's maps are the last layer's attention, mean over heads; the paper does not say which layer or head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp import plots
from clip_decomp.contributions import pictures
from clip_decomp.methods.attention import patch_grid
from clip_decomp.methods.embedding import EmbeddingNumbers
from clip_decomp.methods.patterns import group_attention
from clip_decomp.methods.perturbations import PERTURBATIONS, make_perturbation
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import load
from clip_decomp.results import prefix
from defenses import RVPT

from ..cams import on_trigger
from ..repelling import Raised, compare, raised
from .bench import Bench
from .items import Drawn, Item, Verdict, called
from .rivals import rvpt, vpt
from .tuned import CLEAR, ranked

_THREE = ("badclip", "badnet", "blended")
_SHOWN = ("badnet", "blended", "sig", "wanet", "issba", "label-consistent", "reflection", "kitty", "trojvqa", "badclip")
_LABELS, _LEARNED = "labels/clean", "labels only"
#: Pictures for t-SNE and for curves, and those shown.
_MANY, _FEW = 300, 10


def _tuned(bench: Bench, attack: str) -> dict[str, RVPT]:
    """Prompts that are there."""
    found = {"VPT": bench.tuned(vpt(attack)), "RVPT": bench.tuned(rvpt(attack))}
    return {name: each for name, each in found.items() if isinstance(each, RVPT)}


def resistivity(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figures 1, 8 and 9: resistivity by layer of a label-only tower, the backdoored one, VPT and RVPT."""
    drawn = Drawn("Cosine of features with and without a perturbation, by layer: 1 is a feature that is not reached.")
    rows = []
    for attack in attacks:
        each = bench[attack]
        subject, defended = each.subject, _tuned(bench, attack)
        assert subject.trigger is not None
        models: dict[str, HookedCLIP] = {"undefended": subject.model}
        if bench.setting.missing(_LABELS) is None:
            models = {_LEARNED: load(bench.setting.model(_LABELS), device=bench.setting.device), **models}
        models |= {name: prompts.hooked for name, prompts in defended.items()}
        test = subject.data.test.first(_MANY)
        found = compare(models, test, (attack, subject.trigger))
        for what, panel in found.items():
            for name, curve in panel.items():
                defense = "none" if name == "undefended" else name.lower().replace(" ", "-")
                drawn.metrics |= curve.metrics(prefix(test.name, attack, defense))
                numbers = {"last layer": curve.class_token[-1], "representation": curve.representation}
                rows.append({"attack": called(attack), "perturbation": what, "model": name, **numbers})
        first = {name: prompts.prompts_.blocks[0] for name, prompts in defended.items()}
        pairs = {"RVPT": ("undefended", "RVPT"), "labels": ("undefended", _LEARNED), "VPT": ("VPT", _LEARNED)}
        for claim, (lower, higher) in pairs.items():
            if {lower, higher} <= models.keys():
                moved = [raised(panel[lower], panel[higher], first.get(higher, 0)) for panel in found.values()]
                drawn.verdicts.append(_raised(attack, claim, found, moved))
        drawn.verdicts.append(_deeper(attack, [panel["undefended"].class_token for panel in found.values()]))
        title = f"{called(attack)}: resistivity by layer"
        drawn.figures.append((f"{called(attack)}, {len(test)} test pictures.", plots.resistivity_panels(found, title)))
    drawn.tables.append(("Cosines of class tokens after the last layer, and of representations.", pd.DataFrame(rows)))
    return drawn


def _raised(attack: str, name: str, perturbations: Iterable[str], moved: Sequence[Raised]) -> Verdict:
    """RVPT raises resistivity; a tower that learned labels alone has more of it than CLIP, without VPT and with it."""
    evidence = "; ".join(f"{what}: {change}" for what, change in zip(perturbations, moved, strict=True))
    higher, layers = (sum(getattr(change, key) for change in moved) for key in ("higher", "layers"))
    bound = "by more than its 95 % interval"
    most = f"is higher {bound} at more than half of the layers, all perturbations taken together"
    claim, rule, appears = {
        "RVPT": (
            "RVPT raises resistivity everywhere",
            f"resistivity rises {bound} at every prompted layer, under every perturbation",
            higher == layers,
        ),
        "labels": (
            "a tower that learned labels alone resists more",
            f"its resistivity {most}",
            higher > layers / 2,
        ),
        "VPT": (
            "a tower that learned labels alone resists more than CLIP under VPT",
            f"resistivity of that tower {most}, than that of CLIP under VPT",
            higher > layers / 2,
        ),
    }[name]
    return Verdict(f"{called(attack)}: {claim}", rule, appears, evidence)


def _deeper(attack: str, curves: Sequence[Sequence[float]]) -> Verdict:
    """Whether deeper layers are more sensitive, by the resistivity of every layer under each perturbation."""
    ranks = [ranked(range(len(curve)), curve) for curve in curves]
    rule = f"under more than half of the perturbations, resistivity's rank correlation with depth is beyond {-CLEAR:g}"
    claim = f"{called(attack)}: deeper layers are more sensitive"
    evidence = ", ".join(f"{rank:.2f}" for rank in ranks)
    return Verdict(claim, rule, sum(rank <= -CLEAR for rank in ranks) > len(ranks) / 2, evidence)


def maps(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 5: what the class token and the prompts attend to, on clean and on triggered pictures."""
    drawn = Drawn("Attention of the last layer, mean over heads, of the class token and (RVPT) of the prompts.")
    rows = []
    for attack in attacks:
        subject, defended = bench[attack].subject, _tuned(bench, attack)
        if "RVPT" not in defended:
            continue
        sides = {}
        for name, trigger in (("clean", None), ("triggered", subject.trigger)):
            sides[name] = torch.cat([pixels for pixels, _, _ in pictures(subject.data.test.first(64), trigger)])
        model, prompted = subject.model, defended["RVPT"].hooked
        views = {
            "undefended": (model, "class token"),
            "RVPT": (prompted, "class token"),
            "prompts": (prompted, "prompts"),
        }
        found = {(side, view): _attended(*views[view], images) for side, images in sides.items() for view in views}
        paid = {}
        for view in views:
            heat = found["triggered", view]
            looks = on_trigger(heat, sides["clean"], sides["triggered"])
            share, chance = float(looks.share.mean()), float(looks.chance.mean())
            paid[view] = float((looks.share * heat.flatten(1).sum(1)).mean())
            row = {"of all attention": paid[view], "of that to patches": share, "by chance": chance}
            rows.append({"attack": called(attack), "map": view, **row})
            start = prefix(subject.data.test.name, attack, "none" if view == "undefended" else "rvpt")
            drawn.metrics[f"{start}/attention-on-trigger;map={view.replace(' ', '-')}"] = paid[view]
        evidence = f"{paid['undefended']:.1%} of all attention undefended, {paid['RVPT']:.1%} under RVPT"
        rule = "the share of the class token's attention that goes to the trigger's patches falls to half"
        claim = f"{called(attack)}: RVPT attends less to the trigger"
        drawn.verdicts.append(Verdict(claim, rule, paid["RVPT"] <= paid["undefended"] / 2, evidence))
        caption = f"{called(attack)}; two pictures, clean and triggered. Each map adds up to 1 over the patches."
        drawn.figures.append((caption, _grid(sides, found, attack)))
    drawn.tables.append(("Attention to the trigger's patches, 64 pictures.", pd.DataFrame(rows)))
    return drawn


def _attended(model: HookedCLIP, group: str, pixels: Float[Tensor, "image 3 y x"]) -> Float[Tensor, "image row column"]:
    """Attention of a group's tokens to patches in the last layer."""
    rows = group_attention(model, model.normalize(pixels), group, model.visual.n_layers - 1)
    return patch_grid(rows, model.visual.grid, dim=1, prefix=model.visual.n_prefix)


def _grid(sides: Mapping[str, Tensor], found: Mapping[tuple[str, str], Tensor], attack: str):
    shown, heats, names = [], [], []
    for number in range(2):
        for side, images in sides.items():
            picture = (images[number] * 255).round().to(torch.uint8).numpy()
            own = [found[side, view][number] for view in ("undefended", "RVPT", "prompts")]
            shown += [picture] * 4
            heats += [None, *((heat / heat.sum()).numpy() for heat in own)]  # prompts mostly attend to one another
            names += [side, "undefended", "RVPT: class token", "RVPT: prompts"]
    title = f"{called(attack)}: attention of the last layer"
    key = "share of a map's attention to patches"
    return plots.overlay_grid(shown, heats, names, title, key, diverging=False, columns=4, narrow_columns=4)


#: Numbers of an embedding that table and rules use.
_NUMBERS = (
    "triggered_silhouette",
    "class_silhouette_triggered",
    "partner_mean",
    "nearest_mean_true",
    "nearest_mean_target",
)


def embeddings(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 6: t-SNE of clean and triggered representations, and its claims as numbers."""
    drawn, rows = Drawn("t-SNE of representations; the table's numbers are taken in the feature space."), []
    for attack in attacks:
        subject = bench[attack].subject
        test, numbers = subject.data.test.first(_MANY), {}
        for name, model in {"undefended": subject.model, **_tuned(bench, attack)}.items():
            found = bench[attack].embedded(model, test)
            numbers[name] = found.numbers
            figure = plots.embedding_map(found, test.class_names, f"{called(attack)}: {name}")
            drawn.figures.append((f"{called(attack)}, {name}, {len(test)} pictures.", figure))
            values = {key.replace("_", " "): getattr(found.numbers, key) for key in _NUMBERS}
            rows.append({"attack": called(attack), "model": name, **values})
            defense = "none" if name == "undefended" else name.lower()
            drawn.metrics |= found.metrics(prefix(test.name, attack, defense))
        drawn.verdicts += [_scattered(attack, name, numbers) for name in numbers if name != "undefended"]
    drawn.tables.append(
        ("Silhouettes of unit features; distances in units of a random clean pair.", pd.DataFrame(rows))
    )
    return drawn


def _scattered(attack: str, name: str, numbers: Mapping[str, EmbeddingNumbers]) -> Verdict:
    before, after = numbers["undefended"], numbers[name]
    halved = after.triggered_silhouette <= before.triggered_silhouette / 2
    nearer = after.partner_mean <= before.partner_mean / 2
    rule = "the silhouette of triggered pictures as one cluster, and their distance to their clean copies, fall to half"
    evidence = (
        f"silhouette {before.triggered_silhouette:.2f} to {after.triggered_silhouette:.2f}, "
        f"distance {before.partner_mean:.2f} to {after.partner_mean:.2f}"
    )
    claim = f"{called(attack)}: {name} breaks the cluster of triggered pictures"
    if name == "RVPT":
        return Verdict(claim, rule, halved and nearer, evidence)
    kept = f"{called(attack)}: triggered pictures stay a cluster under {name}"
    return Verdict(kept, "their silhouette as one cluster stays above half of the undefended one", not halved, evidence)


def perturbed(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 7: the four benign perturbations on pictures."""
    test = bench[attacks[0]].subject.data.test.first(_FEW)
    pixels, _, numbers = next(iter(pictures(test)))
    rows = {"clean": pixels} | {name: make_perturbation(name)(pixels, numbers) for name in PERTURBATIONS}
    drawn = Drawn("Settings of the paper's appendix, scaled to the pictures' size.")
    drawn.figures.append((f"{_FEW} test pictures.", _sheet(rows, "Perturbations")))
    return drawn


def triggers(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 10: triggers on pictures, and what they change."""
    drawn, rows, table = Drawn("Pictures under each attack's trigger."), {}, []
    for attack in attacks:
        subject = bench[attack].subject
        assert subject.trigger is not None
        clean, _, numbers = next(iter(pictures(subject.data.test.first(_FEW))))
        rows |= {"clean": clean} if not rows else {}
        rows[called(attack)] = subject.trigger(clean, numbers)
        change = (rows[called(attack)] - clean).abs()
        squared = float((rows[called(attack)] - clean).square().mean())
        values = {
            "pixels changed": float((change > 0.5 / 255).any(1).float().mean()),
            "PSNR (dB)": -10 * np.log10(squared),
        }
        table.append({"attack": called(attack), **values})
        drawn.metrics |= {
            f"{prefix(subject.data.test.name, attack, 'none')}/{key}": value
            for key, value in zip(("pixels-changed", "psnr"), values.values(), strict=True)
        }
    drawn.figures.append((f"{_FEW} test pictures.", _sheet(rows, "Triggers")))
    drawn.tables.append((f"Of {_FEW} pictures.", pd.DataFrame(table)))
    return drawn


def _sheet(rows: Mapping[str, Float[Tensor, "image 3 y x"]], title: str):
    shown = {
        name: [(picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy() for picture in images]
        for name, images in rows.items()
    }
    return plots.sheet(shown, title)


def _item(name: str, title: str, where: str, attacks: tuple[str, ...], draw, *models: str) -> Item:
    kinds = {resistivity: (rvpt, vpt), embeddings: (rvpt, vpt), maps: (rvpt,)}.get(draw, ())
    trainings = tuple(make(attack) for attack in attacks for make in kinds)
    return Item(f"rvpt-{name}", title, f"Zhang et al. 2025, {where}", attacks, draw, trainings, models=models)


ITEMS = (
    _item("f1", "Perturbation resistivity", "figures 1, 8 and 9", _THREE, resistivity, _LABELS),
    _item("f5", "Attention maps with prompts", "figure 5", _THREE[:2], maps),
    _item("f6", "t-SNE of clean and triggered pictures", "figure 6", _THREE[:1], embeddings),
    _item("f7", "Perturbations", "figure 7", ("badnet",), perturbed),
    _item("f10", "Triggers", "figure 10", _SHOWN, triggers),
)
