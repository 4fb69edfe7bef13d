"""Detection by He et al. (ICML 2025): table 2."""

from __future__ import annotations

from statistics import mean

import pandas as pd

from clip_decomp.errors import DataError

from .bench import FEW, Bench
from .closer_look_defenses import OTHERS, PATCHES, keyed
from .items import Drawn, Item, Verdict, called
from .rivals import own

_RIVALS = ("strip", "scale-up", "teco")
_BEST = "AUROC against all clean pictures is at least that of STRIP, SCALE-UP and TeCo"
_COUNT = "decomp-det;score=count"
_SCORES = {
    _COUNT: "Decomp-Det, count",
    "decomp-det;score=distance;parts=both": "Decomp-Det, distance (ours)",
    "strip": "STRIP",
    "scale-up": "SCALE-UP",
    "teco": "TeCo",
}
#: What the paper's table is about; ``clip-decomp filtering`` compares detectors on other attacks.
_DETECTED = (*PATCHES, *OTHERS)
#: Detectors as the paper's table calls them; its Decomp-Det counts.
_PAPERS = {_COUNT: "Decomp-Det", "strip": "STRIP", "scale-up": "SCALE-UP", "teco": "TeCo"}


def detectors(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 2: AUROC of Decomp-Det beside its rivals."""
    drawn, rows = Drawn("AUROC against all clean pictures, and against those of the target class."), []
    areas: dict[str, dict[str, float]] = {}
    seldom: list[str] = []
    for attack in attacks:
        each, found = bench[attack], bench.defenses(attack, ("decomp-det", *_RIVALS), few=True)
        if not found.keys() >= _SCORES.keys():  # of so few pictures the attack takes too seldom
            few = min(FEW, bench.setting.images)
            seldom.append(f"{called(attack)} is left out: of {few} pictures its ASR is {found['none']['asr']:.1%}.")
            continue
        for name, shown in _SCORES.items():
            area = {key: found[name][key] for key in ("auroc", "auroc-target") if key in found[name]}
            rows.append(
                {"attack": called(attack), "detector": shown, "all": area["auroc"], "target": area.get("auroc-target")}
            )
            drawn.metrics |= keyed(each, name, area)
        areas[attack] = {name: found[name]["auroc"] for name in _PAPERS}
        for name, case in _PAPERS.items():
            drawn.put(attack, case, own(attack), auroc=areas[attack][name])
        count, rivals = areas[attack][_COUNT], [areas[attack][name] for name in _RIVALS]
        claim, evidence = f"{called(attack)}: Decomp-Det is ahead", f"{count:.4f}, best rival {max(rivals):.4f}"
        drawn.verdicts.append(Verdict(claim, _BEST, count >= max(rivals), evidence))
    if not areas:
        raise DataError(" ".join(seldom))
    drawn.text = " ".join([drawn.text, *seldom])
    if areas.keys() >= set(_DETECTED):
        for name, case in _PAPERS.items():
            drawn.put("mean", case, "", auroc=mean(areas[attack][name] for attack in _DETECTED))
    drawn.tables.append((f"The same pictures for all detectors of an attack, {FEW} at most.", pd.DataFrame(rows)))
    return drawn


ITEMS = (Item("closer-look-t2", "Detection", "He et al. 2025, table 2", _DETECTED, detectors),)
