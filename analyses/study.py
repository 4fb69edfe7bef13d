"""Tuned defenses on any models: attacks, seeds, swept settings and test sets, one fit after another.

Every fit is kept in a file of its own as soon as it is measured, so an interrupted study goes on where it stopped, and
a larger one takes over what a smaller one measured.

Example:
    >>> sweep(["alpha=0,2", "length=10"])
    [{'alpha': 0, 'length': 10}, {'alpha': 2, 'length': 10}]
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from clip_decomp.errors import SettingError
from clip_decomp.results import prefix

from .fits import MEASURES


def sweep(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of what texts such as ``alpha=0,1,2`` say.

    Raises:
        SettingError: a text of another form.
    """
    axes = []
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise SettingError(f"Sweeps look like alpha=0,1,2, not {text!r}.")
        axes.append([(name.replace("-", "_"), _value(each)) for each in values.split(",")])
    return [dict(each) for each in itertools.product(*axes)]


def metrics(measured: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over seeds by the names of ``results.json``, and standard deviations under ``<name>/std``.

    Names carry the model where two models share an attack.
    """
    together: dict[str, list[float]] = {}
    several = len({each["attack"] for each in measured}) < len({each["fit"]["model"] for each in measured})
    for each in measured:
        fit, attack = each["fit"], each["attack"]
        own = f";model={fit['model']}" if several else ""
        prompted = f";template={fit['template']}" if fit["template"] is not None else ""
        key = own + "".join(f";{name}={value}" for name, value in _keys(fit))
        for test in fit["tests"]:
            for what in MEASURES:
                for defense, numbers, swept in (
                    ("none", each["before"], own + prompted),
                    (fit["defense"], each["after"], key),
                ):
                    name = f"{prefix(test, attack, defense)}/{what}{swept}"
                    together.setdefault(name, []).append(numbers[test][what])
    found = {name: mean(values) for name, values in together.items()}
    return found | {f"{name}/std": stdev(values) for name, values in together.items() if len(values) > 1}


def rows(measured: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Lines of a table: before and after, means over seeds and standard deviations."""
    together: dict[str, list[dict[str, Any]]] = {}
    for each in measured:
        parts = [each["fit"]["model"], each["fit"]["defense"], *(f"{key} {value}" for key, value in _keys(each["fit"]))]
        together.setdefault(", ".join(parts), []).append(each)
    lines = [("", "undefended  ->  defended, mean ± standard deviation over seeds")]
    for what, fits in together.items():
        for test in fits[0]["fit"]["tests"]:
            shown = [
                f"{name} {_spread(fits, 'before', test, key)}  ->  {_spread(fits, 'after', test, key)}"
                for key, name in zip(MEASURES, ("ASR", "clean accuracy", "poisoned accuracy"), strict=True)
            ]
            lines.append((f"{what}: {test} ({len(fits)} seeds)", "; ".join(shown)))
        cost = f"{fits[0]['pictures']} pictures, {fits[0]['parameters']:,} parameters"
        lines.append(("  tuned", f"{cost}, {mean(each['seconds'] for each in fits):.0f} s"))
    return lines


def _keys(fit: dict[str, Any]) -> list[tuple[str, Any]]:
    """What tells a fit from another one of the same model and defense, the seed apart."""
    further = {"tuned_on": fit["tuned_on"], "template": fit["template"], "without_target": fit["without_target"]}
    plain = {"tuned_on": fit["tests"][0], "template": None, "without_target": False}
    return [*sorted(fit["settings"].items()), *((key, value) for key, value in further.items() if value != plain[key])]


def _spread(fits: Sequence[dict[str, Any]], side: str, test: str, what: str) -> str:
    values = [each[side][test][what] for each in fits]
    return f"{mean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(set(values)) > 1 else "")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
