"""Findings 1 and 2 of He et al. (ICML 2025), decided in numbers.

1. A local patch lives in attention heads, a global perturbation in MLPs: ablating all of one kind breaks the attack,
   ablating all of the other leaves it.
2. Infected heads are centered on the last layer: ablating its heads alone breaks the attack. Infected MLPs are spread
   over the last five layers: ablating those five breaks the attack, ablating any single one does not.

*Breaks* means that the attack success rate falls below half of the undefended one, *leaves* that it stays above 80 %
of it. Anything in between is said to be undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clip_decomp.ablation import AblationResult
from clip_decomp.errors import SettingError

#: The paper's figure 1 and, of patches, its table 5; SIG, a perturbation of the whole image, is ours.
LOCAL, GLOBAL = ("badnet", "kitty", "badclip", "label-consistent"), ("blended", "reflection", "issba", "sig")
_BREAKS, _LEAVES = 0.5, 0.8
#: MLPs at the end of the tower that finding 2 is about.
LATE_MLPS = 5
_NAMES = {"heads": "heads", "mlps": "MLPs", "layers": "components"}


@dataclass(frozen=True)
class Finding:
    """A finding, whether it appears, and the numbers that decide."""

    number: int
    claim: str
    appears: bool
    evidence: str
    metrics: dict[str, float]

    @property
    def sentence(self) -> str:
        """For reports."""
        verdict = "appears" if self.appears else "does not appear"
        return f"Finding {self.number} ({self.claim}) {verdict}: {self.evidence}"


def decide(sweeps: Sequence[AblationResult], attack: str) -> list[Finding]:
    """Findings 1 and 2 for an attack from its direct sweeps.

    Raises:
        SettingError: the findings say nothing about this attack.
    """
    by_case = {(sweep.over, sweep.scheme): sweep for sweep in sweeps}
    if attack not in LOCAL + GLOBAL:
        raise SettingError(f"The findings are about {LOCAL + GLOBAL}, not {attack!r}.")
    base = by_case["heads", "forward"].baseline[1]
    all_heads = by_case["heads", "forward"].attack_success_rate[-1]
    all_mlps = by_case["mlps", "forward"].attack_success_rate[-1]
    local = attack in LOCAL
    infected, other = (all_heads, all_mlps) if local else (all_mlps, all_heads)
    kind, rest = ("heads", "MLPs") if local else ("MLPs", "heads")
    first = Finding(
        1,
        f"a {'patch lives in heads' if local else 'global perturbation lives in MLPs'}",
        infected < _BREAKS * base and other > _LEAVES * base,
        f"of {base:.1%} undefended, {infected:.1%} is left without any {kind} and {other:.1%} without any {rest}.",
        {"asr-without-heads": all_heads, "asr-without-mlps": all_mlps},
    )
    separate = by_case["heads" if local else "mlps", "separate"].attack_success_rate
    weakest = min(range(len(separate)), key=lambda layer: separate[layer])
    if local:
        last = separate[-1]
        second = Finding(
            2,
            "infected heads are centered on the last layer",
            last < _BREAKS * base,
            f"ablating the last layer's heads alone leaves {last:.1%}; {_strongest(separate, 'heads', base)}, and "
            f"{_needed(by_case['heads', 'backward'], base)}",
            {"asr-without-last-heads": last, "most-infected-layer": weakest},
        )
    else:
        late = by_case["mlps", "backward"].attack_success_rate[-LATE_MLPS]
        second = Finding(
            2,
            "infected MLPs are spread over the last five layers",
            late < _BREAKS * base and separate[weakest] >= _BREAKS * base,
            f"ablating the last {LATE_MLPS} MLPs leaves {late:.1%}; {_strongest(separate, 'MLP', base)}, and "
            f"{_needed(by_case['mlps', 'backward'], base)}",
            {"asr-without-late-mlps": late, "most-infected-layer": weakest},
        )
    return [first, second]


def _strongest(separate: Sequence[float], kind: str, base: float) -> str:
    """The layer that matters most, if any does."""
    least = min(separate)
    if least > _LEAVES * base:
        return f"no single layer's {kind} matter{'s' if kind == 'MLP' else ''} (at least {least:.1%} left)"
    return f"layer {list(separate).index(least)}'s {kind} matter{'s' if kind == 'MLP' else ''} most ({least:.1%} left)"


def _needed(backward: AblationResult, base: float) -> str:
    """From which layer on everything must go for the attack to break."""
    for layer, value in reversed(list(zip(backward.layers, backward.attack_success_rate, strict=True))):
        if value < _BREAKS * base:
            count = len(backward.layers) - layer
            layers = "last layer's" if count == 1 else f"last {count} layers'"
            return f"the attack breaks once the {layers} {_NAMES[backward.over]} are ablated."
    return f"ablating the {_NAMES[backward.over]} of all layers does not break the attack."
