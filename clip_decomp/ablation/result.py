"""The result of a sweep, and what direct and total sweeps share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from ..convention import Convention
from ..errors import SettingError
from ..evaluation import attack_rates, rate

Component = Literal["heads", "mlps", "layers"]
Scheme = Literal["forward", "backward", "separate"]
Effect = Literal["direct", "total"]


@dataclass(frozen=True)
class AblationResult:
    """A sweep; entry k of each list belongs to layer ``layers[k]``.

    Attributes:
        layers: the layer of each entry; -1 is the embedding (paper's convention, MLPs only).
        clean_accuracy, attack_success_rate, poisoned_accuracy: in 0..1.
        baseline: the same three without ablation.
        count: clean images; ASR is over ``triggered_count``.
    """

    over: Component
    scheme: Scheme
    effect: Effect
    layers: tuple[int, ...]
    clean_accuracy: tuple[float, ...]
    attack_success_rate: tuple[float, ...]
    poisoned_accuracy: tuple[float, ...]
    baseline: tuple[float, float, float]
    count: int
    triggered_count: int

    def to_frame(self):
        """A pandas ``DataFrame`` with one row a layer."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": self.layers,
                "clean_accuracy": self.clean_accuracy,
                "attack_success_rate": self.attack_success_rate,
                "poisoned_accuracy": self.poisoned_accuracy,
            }
        )

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``, one clean accuracy and one ASR a layer."""
        found = {}
        for k, layer in enumerate(self.layers):
            key = f"component={self.over};scheme={self.scheme};effect={self.effect};layer={layer}"
            found[f"{prefix}/asr;{key}"] = self.attack_success_rate[k]
            found[f"{prefix}/ca;{key}"] = self.clean_accuracy[k]
        return found

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.3f}")


def score(
    clean_guess: Int[Tensor, " image"],
    clean_labels: Int[Tensor, " image"],
    bad_guess: Int[Tensor, " image"],
    bad_labels: Int[Tensor, " image"],
    target: int,
    rule: Convention,
) -> tuple[float, float, float]:
    """Clean accuracy, attack success rate and poisoned accuracy of predictions."""
    asr, poisoned = attack_rates(bad_guess, bad_labels, target, rule)
    accuracy = rate(int((clean_guess == clean_labels).sum()), len(clean_labels))
    return accuracy.value, asr.value, poisoned.value


def make_result(
    over: Component,
    scheme: Scheme,
    effect: Effect,
    layers: tuple[int, ...],
    points: list[tuple[float, float, float]],
    base: tuple[float, float, float],
    labels: Int[Tensor, " image"],
    bad_labels: Int[Tensor, " image"],
    target: int,
    rule: Convention,
) -> AblationResult:
    """Put the scores of a sweep's points together."""
    accuracy, success, poisoned = zip(*points, strict=True)
    counted = len(bad_labels) if rule.asr_includes_target else int((bad_labels != target).sum())
    return AblationResult(over, scheme, effect, layers, accuracy, success, poisoned, base, len(labels), counted)


def check(over: str, scheme: str, target: int, classes: int) -> None:
    """Refuse settings out of range, with a SettingError."""
    if over not in ("heads", "mlps", "layers"):
        raise SettingError(f"Components to ablate are heads, mlps or layers, not {over!r}.")
    if scheme not in ("forward", "backward", "separate"):
        raise SettingError(f"Ablation schemes are forward, backward and separate, not {scheme!r}.")
    if not 0 <= target < classes:
        raise SettingError(f"Target class {target} is out of range for {classes} classes.")
