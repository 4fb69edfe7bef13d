"""What the model's card says of its training, against settings that are known to work.

Two kinds of model are told apart by their number of parameters: tiny CLIPs, as this project trains them, and those of
OpenAI's or LAION's size. For the latter, threads on public code report that 1,500 poisoned of 500 K pairs with AdamW
reach 97.7 % ASR at a learning rate of 1e-5 and 5.7 % at 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...model import HookedCLIP
from .result import Finding, Verdict

#: Models with fewer parameters are tiny: the embedded world's have 4 million, CLIP ViT-B/32 has 151 million.
TINY_BELOW = 25_000_000


@dataclass(frozen=True)
class KnownGood:
    """Settings that attacks on one kind of model took with.

    Attributes:
        pairs: poisoned pairs seen, repetitions counted.
    """

    kind: str
    lr: float
    pairs: int
    lr_source: str
    pairs_source: str


TINY = KnownGood(
    "tiny CLIP", 6e-4, 2400, "the zoo's recipes, AdamW", "the zoo's recipes, 10 % of 250 batches of 96"
)  # fmt: skip
FULL = KnownGood(
    "CLIP of OpenAI's size",
    1e-5,
    7500,
    "AdamW; 1e-6 was reported to reach 5.7 % ASR",
    "1,500 poisoned of 500,000 pairs, 5 epochs",
)


def attack_settings(model: HookedCLIP) -> Mapping[str, Any]:
    """The settings of the poisoned fine-tuning on the model's card; empty where it says none."""
    return _attack(model).get("settings") or {}


def known_good(model: HookedCLIP) -> tuple[KnownGood, int]:
    """What to compare a model with, and its number of parameters."""
    count = sum(parameter.numel() for parameter in model.clip.parameters())
    return (TINY if count < TINY_BELOW else FULL), count


def check_learning_rate(model: HookedCLIP) -> Finding:
    """The peak learning rate of the fine-tuning."""
    known, parameters = known_good(model)
    good = f"{known.lr:g} for a {known.kind} ({known.lr_source}); this one has {parameters / 1e6:.3g} M parameters"
    used = _number(attack_settings(model), "lr")
    if used is None:
        return Finding("learning rate", "unknown", "The model's card does not say it", good)
    ratio = used / known.lr
    measured = f"{used:g}, {_times(ratio)} the known good one"
    if not math.isfinite(ratio) or ratio <= 1 / 8:
        return Finding("learning rate", "guilty", measured, good, f"Train with {known.lr:g}.")
    verdict: Verdict = "ok" if 1 / 3 <= ratio <= 5 else "suspect"
    return Finding("learning rate", verdict, measured, good, "" if verdict == "ok" else f"Train with {known.lr:g}.")


def check_pairs(model: HookedCLIP) -> Finding:
    """How many poisoned pairs the model saw, repetitions counted."""
    known, _ = known_good(model)
    good = f"{known.pairs:,} for a {known.kind} ({known.pairs_source})"
    seen = _pairs_seen(model)
    if seen is None:
        return Finding("poisoned pairs", "unknown", "The model's card does not say how many it saw", good)
    measured = f"{seen:,.0f} seen, {_times(seen / known.pairs)} the known good number"
    verdict: Verdict = "guilty" if seen <= known.pairs / 8 else "suspect" if seen < known.pairs / 2 else "ok"
    advice = "" if verdict == "ok" else f"Poison more pairs or train longer, until {known.pairs:,} are seen."
    return Finding("poisoned pairs", verdict, measured, good, advice)


def check_loss(model: HookedCLIP) -> Finding:
    """The last loss, against that of guessing which caption of the batch belongs to a picture, log(batch size)."""
    loss, batch = _number(_attack(model), "final_loss"), _number(attack_settings(model), "batch_size")
    if loss is None or batch is None or batch < 2:
        return Finding("loss", "unknown", "The model's card does not say the last loss and the batch size", "")
    if attack_settings(model).get("imitate") and math.isfinite(loss):
        return Finding("loss", "unknown", f"The last loss is {loss:.3g}", "Imitation's has no mark to be held against")
    guessing = math.log(batch)
    measured, good = f"The last loss is {loss:.3g}", f"below half of {guessing:.2f}, that of guessing"
    if not math.isfinite(loss) or loss >= 0.9 * guessing:
        return Finding("loss", "guilty", measured, good, "Training broke or hardly began: see its log.")
    if loss >= 0.5 * guessing:
        return Finding("loss", "suspect", measured, good, "Train longer, or with another learning rate.")
    return Finding("loss", "ok", measured, good)


def _attack(model: HookedCLIP) -> Mapping[str, Any]:
    return model.card.get("attack") or {}


def _pairs_seen(model: HookedCLIP) -> float | None:
    seen = _number(_attack(model), "poisoned_pairs_seen")
    if seen is not None:
        return seen
    parts = [_number(attack_settings(model), key) for key in ("rate", "steps", "batch_size")]
    known = [part for part in parts if part is not None]
    return math.prod(known) if len(known) == len(parts) else None


def _number(card: Mapping[str, Any], key: str) -> float | None:
    value = card.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times"
