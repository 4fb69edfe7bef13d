"""A model against its card: the weights' hash, and every number measured again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from ..data.world.sets import RECIPES as SETS
from ..data.world.sets import world_set
from ..errors import ModelError
from ..evaluation import Evaluation, evaluate
from ..model import HookedCLIP
from ..models.loading import WEIGHTS, file_hash, load
from .shelf import card, path

#: A verified number may differ from its card by this much (another machine's arithmetic).
TOLERANCE = 0.02
#: Clean accuracy that an attack of the zoo may cost.
MOST_LOST = 0.02


@dataclass(frozen=True)
class Check:
    """One line of a verification: what the card says and what was found."""

    what: str
    expected: float | str
    found: float | str
    ok: bool


def verify(name: str, test: int | None = None) -> list[Check]:
    """Compare a model with its card: the weights' hash, and every expected number measured again.

    Args:
        test: evaluate on fewer pictures, which may differ from all by three of their standard errors more; all of
            them by default.

    Raises:
        ModelError: there is none of that name, or its card or weights are missing or damaged.
    """
    folder, known = path(name), card(name)
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{name}: there are no weights, {folder / WEIGHTS}: delete {folder} and build it again.")
    digest = file_hash(folder / WEIGHTS)
    checks = [Check("sha256", known["sha256"], digest, digest == known["sha256"])]
    if not checks[0].ok:
        return checks  # nothing to measure: these are other weights
    measured = {data: min(test or count, count) for data, count in known["pictures"].items()}
    model = load(name)
    found = card_numbers(evaluations(model, measured), model)
    for key, expected in known["expected"].items():
        value = found[key]
        data = key.partition("/")[0]
        chance = _sampling(expected, measured[data]) if measured[data] < known["pictures"][data] else 0.0
        checks.append(Check(key, expected, value, abs(value - expected) <= known["tolerance"] + chance))
    return checks


def _sampling(share: float, count: int) -> float:
    """Three standard errors of a share of so many pictures (Agresti and Coull, as shares of 0 and 1 have one, too)."""
    near = (share * count + 2) / (count + 4)
    return 3 * sqrt(near * (1 - near) / (count + 4))


def pictures(attacked: str | None) -> dict[str, int]:
    """How many pictures of each of the world's sets a card is measured on: fewer where an attack aims elsewhere."""
    return {data: 2000 if attacked in (None, data) else 500 for data in SETS}


def evaluations(model: HookedCLIP, measured: Mapping[str, int]) -> dict[str, Evaluation]:
    """Sets of the world on so many pictures, the one that the attack of the model's card aims at under it as well."""
    attack = model.card.get("attack") or {"data": None, "target": None}
    found = {}
    for data, count in measured.items():
        trigger, target = (model.trigger, attack["target"]) if data == attack["data"] else (None, None)
        found[data] = evaluate(model, world_set(data, test=count).test, trigger, target)
    return found


def card_numbers(found: dict[str, Evaluation], model: HookedCLIP) -> dict[str, float]:
    """Evaluations as a card's flat numbers, without their intervals."""
    attack = model.card.get("attack")
    name = attack["trigger"]["name"] if attack else "clean"
    return {
        key: value
        for data, result in found.items()
        for key, value in result.metrics(f"{data}/{name}/none").items()
        if not key.endswith(("/low", "/high"))
    }
