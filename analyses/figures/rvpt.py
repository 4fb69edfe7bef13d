"""Tables of RVPT (Zhang et al. 2025): 1 to 6, 8 and 9, and figure 4, the same defense in other places.

Limits: :mod:`.rivals` says which settings are not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from clip_decomp import plots
from clip_decomp.evaluation import evaluate
from clip_decomp.models.loading import load

from .bench import Bench
from .items import Drawn, Item, Verdict, called
from .rivals import CLEANCLIP_NOTE, SETS, cleanclip, one, own, probe, rvpt, vpt
from .trainings import SHIFTS, Training
from .tuned import (
    BELOW,
    UNDEFENDED,
    Cases,
    Compared,
    compared,
    every,
    halves,
    leaves_least,
    lower,
    shares,
    tabled,
    works,
)

_CLEAN = "clean"
_SIX = ("badnet", "blended", "issba", "wanet", "trojvqa", "badclip")
_THREE = ("badnet", "blended", "badclip")
_TARGETED = ("badnet", "blended", "wanet")
_TRANSFER = tuple(f"{data}/{attack}" for data in SETS for attack in _TARGETED)
_WITHHELD = (*_TARGETED, "badclip", *_TRANSFER)
_PROMPTS = {"prompt=<CLS>": "{}", "prompt=##### <CLS>": "##### {}"}

MAIN: Cases = {"CleanCLIP": one(cleanclip), "Linear Probe": probe, "RVPT": one(rvpt)}
_WITHOUT: Cases = {"RVPT": one(rvpt), "RVPT (woTC)": one(rvpt, without_target=True)}
_ARCHITECTURES: Cases = {"Linear Probe": probe, "RVPT": one(rvpt)}


def main(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Tables 1 and 2: ASR and clean accuracy under each defense."""
    found = compared(bench, attacks, MAIN, ("ImageNet", *SETS))
    drawn = tabled(bench, "Each defense on the same test pictures.", found, ("ASR", "clean accuracy"))
    if found.rows and bench.setting.missing(_CLEAN) is None:
        clean = load(bench.setting.model(_CLEAN), device=bench.setting.device)
        for data in dict.fromkeys(data for _, data, _ in found.numbers):
            first = next(attack for attack, place, _ in found.numbers if place == data)
            test = bench[first].subject.data.test
            drawn.put("", "CLIP before poisoning", data, ca=evaluate(clean, test).clean_accuracy.value)
    for attack, data, before, after in found.pairs("RVPT"):
        drawn.verdicts.append(works(attack, data, "RVPT", before, after))
        drawn.verdicts += leaves_least(found, attack, data, "RVPT", MAIN)
    return drawn


def _rivals(found: Compared, attack: str, data: str, measure: str) -> dict[str, float]:
    """A measure of all defenses but RVPT."""
    keys = ((case, (attack, data, case)) for case in MAIN if case != "RVPT")
    return {case: found.numbers[key][measure] for case, key in keys if key in found.numbers}


def poisoned(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 3: poisoned accuracy."""
    found = compared(bench, attacks, MAIN)
    for attack in attacks if bench.setting.missing(_CLEAN) is None else ():
        clean = load(bench.setting.model(_CLEAN), device=bench.setting.device)
        found.add((attack, "ImageNet", "Clean Model"), [bench[attack].defended(clean)], bench.setting.named("ImageNet"))
    drawn = tabled(bench, "Triggered pictures that are given their true class.", found, ("poisoned accuracy",))
    for attack, data, before, after in found.pairs("RVPT"):
        rivals = _rivals(found, attack, data, "pa")
        if not rivals:
            continue
        best = max(rivals, key=lambda case: rivals[case])
        evidence = f"{after['pa']:.1%}, {before['pa']:.1%} undefended, best other: {best} {rivals[best]:.1%}"
        rule = "no other defense that was measured has a higher poisoned accuracy than RVPT"
        claim = f"{called(attack)}: triggered pictures are recognized best under RVPT"
        drawn.verdicts.append(Verdict(claim, rule, after["pa"] >= rivals[best], evidence))
        clean = found.numbers.get((attack, data, "Clean Model"))
        if clean is not None:
            rule = (
                f"of the clean model, too, poisoned accuracy is at least {100 * BELOW:.0f} points below clean accuracy"
            )
            claim = f"{called(attack)}: the trigger costs the clean model accuracy, too"
            evidence = f"{clean['ca']:.1%} to {clean['pa']:.1%}"
            drawn.verdicts.append(Verdict(claim, rule, lower(clean["pa"], clean["ca"]), evidence))
    return drawn


def without_target(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 4: the target class left out of tuning."""
    found = compared(bench, attacks, _WITHOUT, ("ImageNet", *SETS))
    drawn = tabled(bench, "Tuned with the target class, and without its pictures and text (woTC).", found)
    for attack, data, before, after in found.pairs("RVPT (woTC)"):
        whole = found.numbers.get((attack, data, "RVPT"))
        if whole is not None:
            evidence = f"{before['asr']:.1%} undefended, {whole['asr']:.1%} with it, {after['asr']:.1%} without"
            rule = "without the target class RVPT leaves at most 5 points more of the ASR than with it"
            claim = f"{called(attack)}: RVPT does not need the target class"
            drawn.verdicts.append(Verdict(claim, rule, after["asr"] <= whole["asr"] + 0.05, evidence))
    return drawn


def _elsewhere(attack: str) -> Training:
    return rvpt(attack, tuned_on="ImageNet", tests=(own(attack),))


_CROSS_DATA: Cases = {"CleanCLIP": one(cleanclip), "RVPT*": one(_elsewhere)}


def across_data(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 5: tuned on the main set, tested on others."""
    return _carried(bench, attacks, _CROSS_DATA, SETS, "RVPT*", "RVPT* is tuned on the main set.")


_CROSS_DOMAIN: Cases = {"CleanCLIP": one(cleanclip), "RVPT": one(rvpt)}


def across_domains(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 6: tuned on the main set, tested on shifted pictures of the same classes."""
    text = "The main set's classes, drawn otherwise than in tuning."
    return _carried(bench, attacks, _CROSS_DOMAIN, SHIFTS, "RVPT", text)


def _carried(bench: Bench, attacks: tuple[str, ...], cases: Cases, data: Sequence[str], case: str, text: str) -> Drawn:
    """A table of other data than were tuned on, and whether a case carries over to each."""
    found = compared(bench, attacks, cases, data)
    drawn = tabled(bench, text, found, ("ASR", "clean accuracy"))
    for attack, name, *numbers in found.pairs(case):
        drawn.verdicts.append(halves(attack, name, case, *numbers))
        drawn.verdicts += leaves_least(found, attack, name, case, cases)
    return drawn


def _prompted(attack: str, template: str | None) -> Training:
    return rvpt(attack, template=template, tests=("ImageNet",)) if template else rvpt(attack)


def prompts(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 8: other hand-written prompts, before and after."""
    drawn = Drawn("The same prompts in tuning and in testing.")
    left: dict[str, list[float]] = {}
    for prompt, template in {**_PROMPTS, "prompt=a photo of a <CLS>": None}.items():
        found = compared(bench, attacks, {prompt: one(_prompted, template=template)})
        if not found.rows:
            continue
        for row in found.rows:
            row["defense"] = f"{prompt}; {'undefended' if row['defense'] == UNDEFENDED else 'RVPT'}"
        part = tabled(bench, drawn.text, found, ("ASR", "clean accuracy"))
        for attack, _, _, after in found.pairs(prompt):
            left.setdefault(attack, []).append(after["asr"])
        part.measured = [each for each in part.measured if each.case != UNDEFENDED]
        drawn.tables += part.tables
        drawn.metrics |= part.metrics
        drawn.measured += part.measured
    for attack, values in left.items():
        if len(values) > 1:
            rule = "the ASR that is left differs by at most 5 points between prompts"
            evidence = " to ".join(f"{each:.1%}" for each in (min(values), max(values)))
            claim = f"{called(attack)}: RVPT is stable under other prompts"
            drawn.verdicts.append(Verdict(claim, rule, max(values) - min(values) <= 0.05, evidence))
    return drawn


def architectures(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 9: another tower, which plays the part of the paper's ViT-B/16."""
    found = compared(bench, attacks, _ARCHITECTURES)
    drawn = tabled(bench, "Another tower than that of all other tables.", found, ("ASR", "clean accuracy"))
    drawn.measured = [
        each._replace(attack=called(attack.rpartition("/")[2]), case=f"ViT-B/16; {each.case}")
        for attack in attacks
        for each in drawn.measured
        if each.attack == called(attack)
    ]
    drawn.verdicts += [works(attack, data, "RVPT", *numbers) for attack, data, *numbers in found.pairs("RVPT")]
    return drawn


#: Figure 4's scenarios: the set tested on, and changes of the training.
_SCENARIOS: dict[str, tuple[str, dict[str, Any]]] = {
    "in-dataset": ("ImageNet", {}),
    "open-vocabulary": ("ImageNet", {"without_target": True}),
    "cross-domain": ("ImageNet-Sketch", {}),
}


def _scenarios(attack: str) -> tuple[Training, ...]:
    plain = (make(attack, **changes) for make in (rvpt, vpt) for changes in ({}, {"without_target": True}))
    moved = (replace(_elsewhere(f"Caltech-101/{attack}"), defense=name) for name in ("rvpt", "vpt"))
    return (*plain, *moved)


def scenarios(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 4: RVPT and VPT in four scenarios."""
    drawn = Drawn("Open vocabulary: tuned without the target class. Cross-domain: outlines, which no tuning saw.")
    rows = []
    for attack in attacks:
        groups = []
        places = {name: (attack, data, changes) for name, (data, changes) in _SCENARIOS.items()}
        places["cross-dataset"] = (
            f"Caltech-101/{attack}",
            "Caltech-101",
            {"tuned_on": "ImageNet", "tests": ("Caltech-101",)},
        )
        for name, (model, data, changes) in places.items():
            cases: Cases = {"RVPT": one(rvpt, **changes), "VPT": one(vpt, **changes)}
            found = compared(bench, [model], cases, (data,))
            both = {case: numbers for (_, _, case), numbers in found.numbers.items()}
            drawn.metrics |= {f"{key};scenario={name}": value for key, value in found.metrics.items()}
            for case, numbers in both.items():
                groups.append((f"{name}: {case}", shares(numbers, bench.setting.images)))
                rows.append(
                    {
                        "attack": called(attack),
                        "scenario": name,
                        "defense": case,
                        "ASR": numbers["asr"],
                        "clean accuracy": numbers["ca"],
                    }
                )
            if {UNDEFENDED, "VPT"} <= both.keys():
                evidence = f"ASR {both[UNDEFENDED]['asr']:.1%} to {both['VPT']['asr']:.1%}"
                rule = f"VPT's ASR is at least {100 * BELOW:.0f} points below the undefended one"
                claim = f"{called(attack)}, {name}: VPT alone takes some of the attack"
                appears = lower(both["VPT"]["asr"], both[UNDEFENDED]["asr"])
                drawn.verdicts.append(Verdict(claim, rule, appears, evidence))
            if {"RVPT", "VPT"} <= both.keys():
                evidence = ", ".join(f"{case} {numbers['asr']:.1%}" for case, numbers in both.items())
                rule = "RVPT's ASR is at most half of VPT's"
                claim = f"{called(attack)}, {name}: it is repelling that takes the backdoor out"
                drawn.verdicts.append(Verdict(claim, rule, both["RVPT"]["asr"] <= both["VPT"]["asr"] / 2, evidence))
        if groups:
            caption = f"{called(attack)}, 95 % intervals of {bench.setting.images} pictures."
            drawn.figures.append((caption, plots.bars(groups, called(attack))))
    drawn.tables.append((f"Shares of at most {bench.setting.images} test pictures.", pd.DataFrame(rows)))
    return drawn


def _item(
    number: str, title: str, attacks: tuple[str, ...], draw: Callable[..., Drawn], trainings: tuple[Training, ...]
) -> Item:
    source = f"Zhang et al. 2025, {'figure' if number.startswith('f') else 'table'} {number[1:]}"
    note = CLEANCLIP_NOTE if any(each.defense == "cleanclip" for each in trainings) else ""
    models = (_CLEAN,) if draw in (main, poisoned) else ()
    return Item(f"rvpt-{number}", title, source, attacks, draw, trainings, models=models, note=note)


ITEMS = (
    _item(
        "f4",
        "RVPT and VPT in four scenarios",
        _THREE[:2],
        scenarios,
        tuple(t for a in _THREE[:2] for t in _scenarios(a)),
    ),
    _item("t1", "RVPT and its rivals", _SIX, main, every(MAIN, _SIX)),
    _item("t2", "RVPT on two more data sets", _TRANSFER, main, every(MAIN, _TRANSFER)),
    _item("t3", "Poisoned accuracy", _THREE, poisoned, every(MAIN, _THREE)),
    _item("t4", "Tuned without the target class", _WITHHELD, without_target, every(_WITHOUT, _WITHHELD)),
    _item("t5", "Tuned on other data", _TRANSFER, across_data, every(_CROSS_DATA, _TRANSFER)),
    _item("t6", "Tested on shifted pictures", _THREE, across_domains, every(_CROSS_DOMAIN, _THREE)),
    _item(
        "t8",
        "Other prompts",
        _THREE,
        prompts,
        tuple(_prompted(a, t) for a in _THREE for t in (None, *_PROMPTS.values())),
    ),
    replace(
        _item(
            "t9",
            "Another tower",
            tuple(f"patch-16/{a}" for a in _THREE),
            architectures,
            every(_ARCHITECTURES, tuple(f"patch-16/{a}" for a in _THREE)),
        ),
        note="A tower with patches of 16 pixels plays the part of the paper's ViT-B/16; its ViT-L/14 has none here.",
    ),
)
