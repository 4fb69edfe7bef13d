"""Repair and detection by He et al. (ICML 2025): figure 6 and tables 1, 2, 3 and 5.

Table 1 is without its CleanCLIP columns, which ``clip-decomp defend cleanclip`` trains (table 4).
"""

from __future__ import annotations

from typing import get_args

import pandas as pd
import plotly.graph_objects as go

from clip_decomp.plots.look import layout
from defenses import DecompRep
from defenses.decomp_rep import Replacement
from defenses.reversal import reverse_rates

from ..filtering import SHARES, defended, named
from .bench import Attacked, Bench
from .items import Drawn, Item, Verdict, called

_ALL = ("badnet", "label-consistent", "badclip", "trojvqa", "kitty", "blended", "sig", "issba", "reflection")
_RIVALS = ("strip", "scale-up", "teco")
_FALLS = "Decomp-Rep leaves at most half of the undefended ASR and costs at most 5 points of clean accuracy"
_BEST = "AUROC against all clean pictures is at least that of STRIP, SCALE-UP and TeCo"
_KINDS = {
    "decomp-rep;components=heads;effect=direct;share=0.05": "Decomp-Rep, heads of the last layer",
    "decomp-rep;components=mlps;effect=direct": "Decomp-Rep, last five MLPs",
    "decomp-rep;components=auto;effect=direct": "Decomp-Rep, heads or MLPs by evidence (ours)",
    "decomp-rep;components=heads;effect=total": "deviant heads, repaired on the way (ours)",
}
_SCORES = {
    "decomp-det;score=count": "Decomp-Det, count",
    "decomp-det;score=distance;parts=both": "Decomp-Det, distance (ours)",
    "strip": "STRIP",
    "scale-up": "SCALE-UP",
    "teco": "TeCo",
}


def _keyed(each: Attacked, name: str, numbers: dict[str, float]) -> dict[str, float]:
    return named(each.subject.data.test.name, each.attack, name, numbers)


def repairs(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 1: ASR, clean and poisoned accuracy under each repair."""
    drawn, rows = Drawn("Shares of test pictures; prototypes, means and thresholds from held-out clean ones."), []
    for attack in attacks:
        each, found = bench[attack], bench.defenses(attack, ("decomp-rep",))
        for name, label in {"none": "undefended", **_KINDS}.items():
            numbers = found[name]
            rows.append(_row(attack, label, numbers))
            drawn.metrics |= _keyed(each, name, {key: numbers[key] for key in ("asr", "ca", "pa")})
        before = found["none"]
        after = min((found[name] for name in list(_KINDS)[:2]), key=lambda numbers: numbers["asr"])
        appears = after["asr"] <= before["asr"] / 2 and after["ca"] >= before["ca"] - 0.05
        changes = (f"{name} {before[key]:.1%} to {after[key]:.1%}" for name, key in (("ASR", "asr"), ("CACC", "ca")))
        evidence = ", ".join(changes)
        drawn.verdicts.append(
            Verdict(f"{called(attack)}: Decomp-Rep takes the backdoor out", _FALLS, appears, evidence)
        )
    drawn.tables.append((f"{bench.setting.images} test pictures at most.", pd.DataFrame(rows)))
    return drawn


def _row(attack: str, defense: str, numbers: dict[str, float]) -> dict[str, object]:
    named = {"ASR": "asr", "clean accuracy": "ca", "poisoned accuracy": "pa"}
    return {"attack": called(attack), "defense": defense, **{label: numbers[key] for label, key in named.items()}}


def thresholds(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 6: the selection threshold epsilon."""
    drawn = Drawn("Epsilon is set so that it selects a share of clean (picture, head) pairs of the last layer.")
    rows = []
    for attack in attacks:
        each, found = bench[attack], bench.defenses(attack, ("decomp-rep",))
        names = [f"decomp-rep;components=heads;effect=direct;share={share:g}" for share in SHARES]
        figure = go.Figure()
        for key, label in (("asr", "attack success"), ("ca", "clean accuracy"), ("pa", "poisoned accuracy")):
            values = [100 * found[name][key] for name in ("none", *names)]
            shares = [0, *(100 * share for share in SHARES)]
            figure.add_trace(go.Scatter(x=shares, y=values, name=label, mode="lines+markers"))
        for share, name in zip(SHARES, names, strict=True):
            rows.append({"attack": called(attack), "share": share, "epsilon": found[name]["epsilon"], **found[name]})
            drawn.metrics |= _keyed(each, name, found[name])
        layout(figure, f"{called(attack)}: threshold of Decomp-Rep", plot=260, below=96, phone_below=120)
        figure.update_xaxes(title="clean heads selected (%)", ticksuffix=" %")
        figure.update_yaxes(title="images (%)", ticksuffix=" %", range=[0, 103])
        drawn.figures.append((f"{called(attack)}; 0 % is the undefended model.", figure))
    wanted = ["attack", "share", "epsilon", "asr", "ca", "pa"]
    drawn.tables.append(("Sweep.", pd.DataFrame(rows)[wanted]))
    return drawn


def detectors(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 2: AUROC of Decomp-Det beside its rivals."""
    drawn, rows = Drawn("AUROC against all clean pictures, and against those of the target class."), []
    for attack in attacks:
        each, found = bench[attack], bench.defenses(attack, ("decomp-det", *_RIVALS), few=True)
        for name, label in _SCORES.items():
            area = {key: found[name][key] for key in ("auroc", "auroc-target")}
            rows.append(
                {"attack": called(attack), "detector": label, "all": area["auroc"], "target": area["auroc-target"]}
            )
            drawn.metrics |= _keyed(each, name, area)
        best = max(found[name]["auroc"] for name in _RIVALS)
        for name in list(_SCORES)[:2]:
            area = found[name]["auroc"]
            claim, evidence = f"{called(attack)}: {_SCORES[name]} is ahead", f"{area:.4f}, best rival {best:.4f}"
            drawn.verdicts.append(Verdict(claim, _BEST, area >= best, evidence))
    drawn.tables.append(("The same pictures for all detectors of an attack, 128 at most.", pd.DataFrame(rows)))
    return drawn


def choices(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 3: which heads are replaced, and whether those of a triggered picture carry the attack."""
    drawn, rows = Drawn("Selected heads of the last layer, as many fixed or random ones, and the reverse."), []
    for attack in attacks:
        each = bench[attack]
        count = max(1, each.subject.model.visual.n_heads // 2)
        seed = bench.setting.seed
        rivals = {
            "selected": DecompRep(seed=seed),
            "fixed": DecompRep(heads=tuple(range(count)), seed=seed),
            "random": DecompRep(heads=count, seed=seed),
        }
        for name, repair in rivals.items():
            numbers = defended(repair.fit(each.subject.model, each.held_out), each.subject)
            rows.append(_row(attack, f"{name} heads", numbers))
            drawn.metrics |= _keyed(each, f"decomp-rep;heads={name}", numbers)
        assert each.subject.trigger is not None
        back = reverse_rates(rivals["selected"], each.subject.data.test, each.subject.trigger, each.subject.target)
        rows.append(
            {"attack": called(attack), "defense": "reverse", "ASR": back[0].value, "clean accuracy": back[1].value}
        )
        drawn.metrics |= _keyed(each, "decomp-rep;heads=reverse", {"asr": back[0].value, "ca": back[1].value})
    drawn.tables.append((f"{bench.setting.images} test pictures at most.", pd.DataFrame(rows)))
    return drawn


def replacements(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 5: what selected heads are replaced by."""
    drawn, rows = Drawn("Selected heads of the last layer replaced by prototypes, by nothing, or by random values."), []
    for attack in attacks:
        each = bench[attack]
        for name in get_args(Replacement):
            repair = DecompRep(replacement=name, seed=bench.setting.seed)
            numbers = defended(repair.fit(each.subject.model, each.held_out), each.subject)
            rows.append(_row(attack, name, numbers))
            drawn.metrics |= _keyed(each, f"decomp-rep;replacement={name}", numbers)
    drawn.tables.append((f"{bench.setting.images} test pictures at most.", pd.DataFrame(rows)))
    return drawn


ITEMS = (
    Item("closer-look-f6", "Thresholds of Decomp-Rep", "He et al. 2025, figure 6", _ALL, thresholds),
    Item("closer-look-t1", "Repair", "He et al. 2025, tables 1 and 4", _ALL, repairs),
    Item("closer-look-t2", "Detection", "He et al. 2025, table 2", _ALL, detectors),
    Item("closer-look-t3", "Which heads are replaced", "He et al. 2025, table 3", ("badnet", "blended"), choices),
    Item("closer-look-t5", "Replaced by what", "He et al. 2025, table 5", ("badnet", "blended"), replacements),
)
