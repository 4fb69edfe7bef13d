"""Where He et al. (ICML 2025) see backdoors: figures 1, 2, 3, 5 and 8.

Limits: figure 3's text similarity is the mean best-match cosine of the texts' embeddings, as the paper does not define
it. Figure 8's MMD is in the paper's convention, without p-values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clip_decomp import plots
from clip_decomp.ablation import AblationResult
from clip_decomp.contributions import collect, pictures
from clip_decomp.evaluation import Rate
from clip_decomp.evaluation.rates import rate
from clip_decomp.methods.mmd import component_mmd
from clip_decomp.methods.roles import compare_roles, role
from clip_decomp.moments import folded_statistics
from clip_decomp.results import prefix
from clip_decomp.texts import default_pool, encode_pool
from defenses import DecompDet

from ..findings import GLOBAL, LATE_MLPS, LOCAL, decide
from .attending import attending
from .bench import Attacked, Bench
from .closer_look_texts import lines
from .items import Drawn, Item, Verdict, called

#: The paper's six, and two more.
_SWEPT = (*LOCAL, *GLOBAL)
#: Those whose heads the paper shows.
_PATCHES = ("badnet", "badclip")
_PROTOTYPED = ("badnet", "label-consistent", "badclip", "blended")
_FIRST = "ASR below half of the undefended one without all components of one kind, above 80 % without the other kind"
_SECOND = (
    "ASR below half without the last layer's heads (patches), or without the last five MLPs but not without any single "
    "one of them (global)"
)
_THIRD = (
    "of one head of the last layer or more, but not of all, texts of triggered pictures are less like those of clean "
    "ones than the texts of 95 % of pairs of clean halves are like each other"
)
_FOLDS, _TEXTS, _RANK = 8, 20, 80


def _start(each: Attacked) -> str:
    return prefix(each.subject.data.test.name, each.attack, "none")


def _cases(sweeps: list[AblationResult]) -> list[tuple[str, AblationResult | None]]:
    """Nothing ablated, all heads, all MLPs."""
    forward = {sweep.over: sweep for sweep in sweeps if sweep.scheme == "forward"}
    return [("none", None), ("all heads", forward["heads"]), ("all MLPs", forward["mlps"])]


def _rates(sweep: AblationResult, which: int) -> dict[str, Rate]:
    """ASR and clean accuracy as shares of the pictures that they were counted on."""
    clean, success = (sweep.clean_accuracy[which], sweep.attack_success_rate[which])
    return {
        "attack success": rate(round(success * sweep.triggered_count), sweep.triggered_count),
        "clean accuracy": rate(round(clean * sweep.count), sweep.count),
    }


def ablation(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 1: attack and accuracy without the direct contributions of all heads, and of all MLPs."""
    drawn, rows = Drawn("Direct contributions of all heads, or of all MLPs, replaced by their clean means."), []
    for attack in attacks:
        each, groups = bench[attack], []
        for name, sweep in _cases(bench.sweeps(attack)):
            undefended = each.undefended
            success = undefended.attack_success_rate
            assert success is not None
            found = {"attack success": success, "clean accuracy": undefended.clean_accuracy}
            found = found if sweep is None else _rates(sweep, -1)
            groups.append((f"without {name}" if sweep else "undefended", found))
            rows.append(
                {"attack": called(attack), "ablated": name, **{key: value.value for key, value in found.items()}}
            )
            key = f"ablated={name.replace(' ', '-').lower()}"
            drawn.metrics[f"{_start(each)}/asr;{key}"] = found["attack success"].value
            drawn.metrics[f"{_start(each)}/ca;{key}"] = found["clean accuracy"].value
        drawn.figures.append(
            (f"{called(attack)}, {_counted(each)}, 95 % intervals.", plots.bars(groups, called(attack)))
        )
        drawn.verdicts += _decided(bench, attack, 1, _FIRST)
        left = {row["ablated"]: row["clean accuracy"] for row in rows if row["attack"] == called(attack)}
        half = left["none"] / 2
        evidence = f"{left['none']:.1%}, {left['all heads']:.1%} and {left['all MLPs']:.1%}"
        claim = f"{called(attack)}: clean accuracy lives in heads"
        rule = "less than half of the clean accuracy is left without all heads, and more than half without all MLPs"
        appears = left["all heads"] < half < left["all MLPs"]
        drawn.verdicts.append(Verdict(claim, rule, appears, f"undefended, without heads, without MLPs {evidence}"))
    drawn.tables.append(("Shares of pictures.", pd.DataFrame(rows)))
    return drawn


def layers(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figures 2 and 8: ablation by layer in three schemes, and how far layers move under the trigger."""
    drawn, rows = Drawn("Components of layers replaced by their clean means, direct effect; MMD by layer."), []
    curves: dict[str, dict[str, list[float]]] = {}
    for attack in attacks:
        each = bench[attack]
        sweeps = bench.sweeps(attack)
        drawn.figures.append((f"{called(attack)}, {_counted(each)}.", plots.sweeps(sweeps, called(attack))))
        for sweep in sweeps:
            drawn.metrics |= sweep.metrics(_start(each))
        moved = {kind: _moved(each, kind).tolist() for kind in ("heads of a layer", "MLP")}
        for kind, values in moved.items():
            curves.setdefault(kind, {})[called(attack)] = values
            shown = {f"layer {layer}": value for layer, value in enumerate(values)}
            rows.append({"attack": called(attack), "of": kind, **shown})
            key = f"{_start(each)}/mmd;kind={'mlps' if kind == 'MLP' else 'attentions'}"
            drawn.metrics |= {f"{key};layer={layer}": value for layer, value in enumerate(values)}
        drawn.verdicts += _decided(bench, attack, 2, _SECOND)
        drawn.verdicts.append(_moved_late(attack, moved["heads of a layer"], moved["MLP"]))
    for kind, values in curves.items():
        part = kind.removesuffix(" of a layer")
        caption = f"How far the trigger moves each layer's {part}, at most {bench.setting.images} test pictures."
        drawn.figures.append((caption, lines(values, f"MMD by layer: {part}", "squared MMD x 1000")))
    drawn.tables.append(("Squared MMD x 1000 by layer, clean against triggered.", pd.DataFrame(rows)))
    return drawn


def _moved_late(attack: str, heads: Sequence[float], mlps: Sequence[float]) -> Verdict:
    """What figure 8 says of MMD: where the layers are that a trigger moves most."""
    if attack in LOCAL:
        claim, rule = "the trigger moves the last layer's heads most", "of all layers' heads the last one's move most"
        appears, evidence = int(np.argmax(heads)) == len(heads) - 1, f"layer {int(np.argmax(heads))} of {len(heads)}"
    else:
        late, early = float(np.mean(mlps[-LATE_MLPS:])), float(np.mean(mlps[:-LATE_MLPS]))
        claim, rule = "the trigger moves the last five MLPs most", "these five move more in the mean than those before"
        appears, evidence = late > early, f"{late:.3g} and {early:.3g}"
    return Verdict(f"{called(attack)}: {claim}", rule, appears, f"squared MMD x 1000: {evidence}")


def last_heads(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 3: of the last layer's heads, how far they move and whether their texts change."""
    drawn, rows = Drawn("Heads of the last layer on clean pictures and on the same with the trigger."), []
    for attack in attacks:
        each = bench[attack]
        moved, model, test = _moved(each, "heads"), each.subject.model, each.subject.data.test
        pool = default_pool(test.name)
        features, last = encode_pool(model, pool).cpu(), model.visual.n_layers - 1
        sides = [folded_statistics(model, test, _FOLDS, trigger) for trigger in (None, each.subject.trigger)]
        similarity, changed = np.full(moved.shape, np.nan), []
        for head in range(moved.shape[1]):
            parts = ([fold.head(last, head) for fold in side] for side in sides)
            found = compare_roles(*parts, features, _TEXTS, _RANK, pool.texts)
            similarity[last, head], name = found.similarity, f"L{last}H{head}"
            changed.append(found.changed)
            rows.append(
                {
                    "attack": called(attack),
                    "head": name,
                    "MMD": float(moved[last, head]),
                    "role": role(found.clean, pool)[0],
                    "texts, clean": "; ".join((found.clean.texts or ())[:3]),
                    "texts, triggered": "; ".join((found.triggered.texts or ())[:3]),
                    "similarity": float(found.similarity),
                    "of clean halves": float(found.kept),
                    "role changed": found.changed,
                }
            )
            start = _start(each)
            drawn.metrics[f"{start}/mmd;component={name}"] = float(moved[last, head])
            drawn.metrics[f"{start}/text-similarity;component={name}"] = float(found.similarity)
        most = int(moved[last].argmax())
        evidence = (
            f"L{last}H{most} moves most, its texts are {similarity[last, most]:.3f} alike; "
            f"{sum(changed)} of {len(changed)} heads change"
        )
        some = 0 < sum(changed) < len(changed)
        drawn.verdicts.append(
            Verdict(f"{called(attack)}: some heads change their role, others keep it", _THIRD, some, evidence)
        )
        caption = f"{called(attack)}, {_counted(each)}: squared MMD x 1000 between clean and triggered contributions."
        drawn.figures.append((caption, plots.head_map(moved, called(attack), "squared MMD x 1000")))
        maps, verdict = attending(each, moved[last])
        drawn.figures += maps
        drawn.verdicts.append(verdict)
    drawn.tables.append((f"MMD is squared, x 1000; {_TEXTS} texts a head, the first three shown.", pd.DataFrame(rows)))
    return drawn


def prototypes(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 5: densities of the similarity of the last layer's heads to their clean prototypes."""
    drawn = Drawn("Dot products of contributions (over the representation's norm) with the head's clean mean.")
    for attack in attacks:
        each = bench[attack]
        model, few = each.subject.model, each.subject.data.test.first(200)
        detector = DecompDet("count").fit(model, each.held_out)
        found = {}
        for name, trigger in (("clean", None), ("triggered", each.subject.trigger)):
            batches = (batch for batch, _, _ in pictures(few, trigger))
            alike = [detector.similarity(model.normalize(batch))[:, 0].cpu().numpy() for batch in batches]
            found[name] = np.concatenate(alike)
            drawn.metrics[f"{_start(each)}/prototype-similarity;images={name}"] = float(found[name].mean())
        if attack in LOCAL:  # the paper selects heads of patches alone
            drawn.verdicts.append(_less_alike(attack, found["clean"], found["triggered"]))
        last = model.visual.n_layers - 1
        drawn.figures.append(
            (f"{called(attack)}, {len(few)} pictures a group.", plots.similarity(found, last, called(attack)))
        )
    return drawn


def _less_alike(attack: str, clean: np.ndarray, triggered: np.ndarray) -> Verdict:
    """Whether the trigger takes heads away from their prototypes; similarities of pictures and heads."""
    fallen = np.median(triggered, axis=0) < np.quantile(clean, 0.25, axis=0)
    rule = (
        "of half of the last layer's heads or more, the median similarity under the trigger is below the lower "
        "quartile of clean pictures"
    )
    evidence = f"{int(fallen.sum())} of {len(fallen)} heads"
    claim = f"{called(attack)}: the trigger takes heads away from their prototypes"
    return Verdict(claim, rule, bool(2 * fallen.sum() >= len(fallen)), evidence)


def _moved(each: Attacked, kind: str) -> np.ndarray:
    """Squared MMD x 1000 of heads [layer, head], all heads of a layer or its MLP [layer], in the paper's convention."""
    model, test = each.subject.model, each.subject.data.test
    clean, bad = (collect(model, test, trigger, "paper") for trigger in (None, each.subject.trigger))
    if kind == "heads":
        sides = (clean.coordinates, bad.coordinates)
    else:
        sides = (clean.mlps, bad.mlps) if kind == "MLP" else (clean.attentions(), bad.attentions())
    return component_mmd(*sides, 10.0, "biased", 0, each.setting.seed, "max", paired=True).value.numpy()


def _decided(bench: Bench, attack: str, number: int, rule: str) -> list[Verdict]:
    """A finding of the paper."""
    found = decide(bench.sweeps(attack), attack)[number - 1]
    return [Verdict(f"{called(attack)}: {found.claim}", rule, found.appears, found.evidence)]


def _counted(each: Attacked) -> str:
    return f"{len(each.subject.data.test)} test pictures"


ITEMS = (
    Item("closer-look-f1", "All heads or all MLPs ablated", "He et al. 2025, figure 1", _SWEPT, ablation),
    Item("closer-look-f2", "Ablation by layer", "He et al. 2025, figures 2 and 8", _SWEPT, layers),
    Item("closer-look-f3", "Heads of the last layer", "He et al. 2025, figure 3", _PATCHES, last_heads),
    Item("closer-look-f5", "Similarity to prototypes", "He et al. 2025, figure 5", _PROTOTYPED, prototypes),
)
