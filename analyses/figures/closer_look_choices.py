"""What Decomp-Rep of He et al. (ICML 2025) replaces, and by what: figure 6 and tables 3 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import get_args

import pandas as pd
import plotly.graph_objects as go

from clip_decomp.plots.look import layout
from defenses import DecompRep
from defenses.decomp_rep import Replacement
from defenses.reversal import reverse_rates

from ..filtering import SHARES
from ..findings import LOCAL
from .bench import Attacked, Bench
from .closer_look_defenses import OTHERS, PATCHES, REPAIRED, components, keyed, row
from .items import Drawn, Item, Verdict, called
from .rivals import own
from .tuned import BELOW, CLEAR, UNDEFENDED, lower, ranked

_REPLACING = ("badnet", "blended", "label-consistent", "issba", "badclip")
#: Seeds of what is random in tables 3 and 5.
_SEEDS = 3
_COUNTED = "{} test pictures at most; ± is a standard deviation over three seeds."
_BOTH_FALL = (
    f"the rank correlations of the share that epsilon selects with ASR and with clean accuracy are beyond {-CLEAR:g}, "
    f"and the largest share leaves at least {100 * BELOW:.0f} points less of both"
)
#: What selected heads are replaced by, as the paper's table says it.
_REPLACED = {"prototype": "Decomp-Rep", "zero": "w Abandon", "random": "w Random Prototypes"}


def carried(back: Mapping[str, float], accuracy: float) -> bool:
    """What the rule of table 3's reverse asks; ``accuracy`` is that of clean pictures as they are."""
    return back["asr"] >= 0.1 and lower(back["ca"], accuracy)


def thresholds(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Figure 6: the selection threshold epsilon."""
    drawn = Drawn("Epsilon is set so that it selects a share of clean (picture, head) pairs of the last layer.")
    rows = []
    for attack in attacks:
        each, found = bench[attack], bench.defenses(attack, ("decomp-rep",))
        names = [f"decomp-rep;components=heads;effect=direct;share={share:g}" for share in SHARES]
        figure = go.Figure()
        for key, shown in (("asr", "attack success"), ("ca", "clean accuracy"), ("pa", "poisoned accuracy")):
            values = [100 * found[name][key] for name in ("none", *names)]
            shares = [0, *(100 * share for share in SHARES)]
            figure.add_trace(go.Scatter(x=shares, y=values, name=shown, mode="lines+markers"))
        for share, name in zip(SHARES, names, strict=True):
            rows.append({"attack": called(attack), "share": share, "epsilon": found[name]["epsilon"], **found[name]})
            drawn.metrics |= keyed(each, name, found[name])
        if attack in LOCAL:  # the paper selects heads of patches alone
            drawn.verdicts.append(_falling(attack, [found[name] for name in ("none", *names)]))
        layout(figure, f"{called(attack)}: threshold of Decomp-Rep", plot=260, below=96, phone_below=120)
        figure.update_xaxes(title="clean heads selected (%)", ticksuffix=" %")
        figure.update_yaxes(title="images (%)", ticksuffix=" %", range=[0, 103])
        drawn.figures.append((f"{called(attack)}; 0 % is the undefended model.", figure))
    wanted = ["attack", "share", "epsilon", "asr", "ca", "pa"]
    drawn.tables.append(("Sweep.", pd.DataFrame(rows)[wanted]))
    return drawn


def _falling(attack: str, found: Sequence[Mapping[str, float]]) -> Verdict:
    """Whether both rates fall with epsilon, from the undefended numbers and those of rising shares."""
    told, falls = [], []
    for key, name in (("asr", "ASR"), ("ca", "clean accuracy")):
        values = [each[key] for each in found]
        rank = ranked((0.0, *SHARES), values)
        told.append(f"{name} {values[0]:.1%} to {values[-1]:.1%}, {rank:.2f}")
        falls.append(rank <= -CLEAR and lower(values[-1], values[0]))
    claim = f"{called(attack)}: ASR and clean accuracy fall with epsilon"
    return Verdict(claim, _BOTH_FALL, all(falls), "; ".join(told))


def choices(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 3: which heads are replaced, and whether those of a triggered picture carry the attack."""
    drawn, rows = Drawn("Selected heads of the last layer, a quarter that is fixed or random, and the reverse."), []
    for attack in attacks:
        each = bench[attack]
        seeds = [bench.setting.seed + k for k in range(_SEEDS)]
        fixed = quarters(each.subject.model.visual.n_heads)
        selected, random, counted = "Decomp-Rep", "Random AHs", [[head + 1 for head in heads] for heads in fixed]
        rivals = {
            selected: [DecompRep()],
            **{f"Fixed {numbers}": [DecompRep(heads=heads)] for numbers, heads in zip(counted, fixed, strict=True)},
            random: [DecompRep(heads=len(fixed[0]), seed=seed) for seed in seeds],
        }
        keys = {selected: "selected", random: "random"}
        keys |= {f"Fixed {numbers}": "-".join(map(str, numbers)) for numbers in counted}
        found = {case: _averaged(each, repairs) for case, repairs in rivals.items()}
        before = bench.defenses(attack, ())["none"]
        rows += [row(attack, case, numbers) for case, numbers in {UNDEFENDED: before, **found}.items()]
        for case, numbers in {UNDEFENDED: before, "Base-Decomp": before, **found}.items():
            drawn.put(attack, case, own(attack), asr=numbers["asr"], ca=numbers["ca"])
        drawn.put(attack, "Original Clean", own(attack), ca=before["ca"])
        for case, numbers in found.items():
            drawn.metrics |= keyed(each, f"decomp-rep;heads={keys[case]}", numbers)
        assert each.subject.trigger is not None
        rates = reverse_rates(rivals[selected][0], each.subject.data.test, each.subject.trigger, each.subject.target)
        back = {"asr": rates[0].value, "ca": rates[1].value}
        rows.append(row(attack, "reverse", back))
        drawn.metrics |= keyed(each, "decomp-rep;heads=reverse", back)
        drawn.put(attack, "Decomp-Reverse", own(attack), **back)
        left = {case: numbers["asr"] for case, numbers in found.items()}
        told = ", ".join(f"{case} {value:.1%}" for case, value in left.items())
        rule = "fixed heads and random ones leave at least ten points more of the ASR than selected ones"
        appears = min(asr for case, asr in left.items() if case != selected) >= left[selected] + 0.1
        drawn.verdicts.append(Verdict(f"{called(attack)}: heads must be selected", rule, appears, f"ASR left: {told}"))
        rule = (
            "clean pictures with heads of their triggered copies are given the target in a tenth of the cases or more, "
            f"and clean accuracy falls by {100 * BELOW:.0f} points or more"
        )
        claim = f"{called(attack)}: selected heads carry the attack into clean pictures"
        evidence = f"{back['asr']:.1%}; accuracy {before['ca']:.1%} to {back['ca']:.1%}"
        drawn.verdicts.append(Verdict(claim, rule, carried(back, before["ca"]), evidence))
    drawn.tables.append((_COUNTED.format(bench.setting.images), pd.DataFrame(rows)))
    return drawn


def _averaged(each: Attacked, repairs: Sequence[DecompRep]) -> dict[str, float]:
    """Means over repairs that differ in their seed, and their standard deviations where there are several."""
    found = [each.defended(repair.fit(each.recalling, each.held_out)) for repair in repairs]
    means = {key: mean(numbers[key] for numbers in found) for key in found[0]}
    return means | ({f"{key}/std": stdev(numbers[key] for numbers in found) for key in means} if len(found) > 1 else {})


def replacements(bench: Bench, attacks: tuple[str, ...]) -> Drawn:
    """Table 5: what selected heads are replaced by."""
    text = (
        "Selected heads of the last layer (patches) or the last five MLPs (global) replaced by prototypes, by nothing, "
        "or by random values."
    )
    drawn, rows = Drawn(text), []
    for attack in attacks:
        each, found, part = bench[attack], {}, components(attack)
        for name in get_args(Replacement):
            seeds = range(bench.setting.seed, bench.setting.seed + (_SEEDS if name == "random" else 1))
            numbers = _averaged(each, [DecompRep(part, replacement=name, seed=seed) for seed in seeds])
            found[name] = numbers
            rows.append(row(attack, name, numbers))
            drawn.metrics |= keyed(each, f"decomp-rep;components={part};replacement={name}", numbers)
            drawn.put(attack, _REPLACED[name], own(attack), asr=numbers["asr"], ca=numbers["ca"])
        for over, case in (("heads", "w/o All AHs"), ("mlps", "w/o All MLPs")):
            swept = next(found for found in bench.sweeps(attack) if (found.over, found.scheme) == (over, "forward"))
            numbers = {"asr": swept.attack_success_rate[-1], "ca": swept.clean_accuracy[-1]}
            rows.append(row(attack, case, numbers))
            drawn.put(attack, case, own(attack), **numbers)
        before = bench.defenses(attack, ())["none"]
        rows.append(row(attack, UNDEFENDED, before))
        drawn.put(attack, UNDEFENDED, own(attack), asr=before["asr"], ca=before["ca"])
        drawn.verdicts += replaced_by(attack, found, before)
    drawn.tables.append((_COUNTED.format(bench.setting.images), pd.DataFrame(rows)))
    return drawn


def replaced_by(attack: str, found: Mapping[str, Mapping[str, float]], before: Mapping[str, float]) -> list[Verdict]:
    """What the paper says of table 5's replacements, from the numbers of each and the undefended ones."""
    told = {key: ", ".join(f"{name} {numbers[key]:.1%}" for name, numbers in found.items()) for key in ("asr", "ca")}
    costs, left = ({name: numbers[key] for name, numbers in found.items()} for key in ("ca", "asr"))
    rule = "prototypes keep more clean accuracy than zeros and than random values"
    appears = costs["prototype"] > max(costs["zero"], costs["random"])
    verdicts = [Verdict(f"{called(attack)}: prototypes cost least", rule, appears, told["ca"])]
    rule = "random values leave less than half of the undefended ASR, and of clean accuracy"
    appears = left["random"] < before["asr"] / 2 and costs["random"] < before["ca"] / 2
    evidence = f"ASR {left['random']:.1%}, accuracy {costs['random']:.1%}"
    verdicts.append(Verdict(f"{called(attack)}: random values destroy attack and accuracy", rule, appears, evidence))
    if attack in LOCAL:  # the paper's zeros leave less of global attacks
        rule = f"prototypes leave at least {100 * BELOW:.0f} points less of the ASR than zeros"
        claim = f"{called(attack)}: prototypes leave less of the attack than nothing in their place"
        verdicts.append(Verdict(claim, rule, lower(left["prototype"], left["zero"]), told["asr"]))
    return verdicts


def quarters(heads: int) -> list[tuple[int, ...]]:
    """Three sets of a quarter of the heads: the first, those behind the middle, the last.

    Example:
        >>> quarters(12)
        [(0, 1, 2), (6, 7, 8), (9, 10, 11)]
    """
    count = max(1, heads // 4)
    return [tuple(range(start, start + count)) for start in (0, heads // 2, heads - count)]


ITEMS = (
    Item("closer-look-f6", "Thresholds of Decomp-Rep", "He et al. 2025, figure 6", REPAIRED, thresholds),
    Item("closer-look-t3", "Which heads are replaced", "He et al. 2025, table 3", (*PATCHES, *OTHERS), choices),
    Item("closer-look-t5", "Replaced by what", "He et al. 2025, table 5", _REPLACING, replacements),
)
