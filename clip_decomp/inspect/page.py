"""The page about a head: numbers as plain HTML, pictures as data that a small script draws."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..methods.roles import RoleChange
from ..report import cell, environment, script_safe
from ..results import versions
from .result import HeadReport, Pushes, Shown, Side

#: Patches are sent as whole numbers of this share of the color scale's end.
_STEP = 1 / 100
_GROUPS = {
    "clean": "Texts of this head",
    "triggered": "Texts of this head, on triggered pictures only",
    "target": "Target class",
    "given": "Given texts",
}


class _TextRow(NamedTuple):
    text: str
    property: str
    share: float
    view: int


def render(report: HeadReport) -> str:
    """The page as one string of HTML."""
    digits = _digits(report)
    data = script_safe(json.dumps(_data(report, digits), separators=(",", ":"), allow_nan=False))
    return environment().get_template("inspect/template.html").render(
        report=report,
        title=f"{report.name} of {report.model}",
        lead=_lead(report),
        facts=_facts(report),
        texts={side: _texts(report, side) for side in report.sides},
        explained={side: float(report.span(side).explained_variance_ratio.sum()) for side in report.sides},
        properties=_properties(report),
        effects=_effects(report),
        groups=_groups(report),
        number=cell,
        data=data,
    )  # fmt: skip


def signed(value: float, digits: int) -> str:
    """A number with its sign, as the page's script writes it.

    Example:
        >>> signed(0.1234, 2), signed(-0.1234, 2), signed(-0.001, 2)
        ('+0.12', '−0.12', '0.00')
    """
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("\N{MINUS SIGN}" if value < 0 else "+") + text


def _lead(report: HeadReport) -> list[str]:
    if report.roles is None:
        role = f"On {report.count} pictures of {report.data} the texts of this head are {_about(report, 'clean')}."
    else:
        role = (
            f"On clean pictures the texts of this head are {_about(report, 'clean')}, on triggered ones "
            f"{_about(report, 'triggered')}. By the similarity of the two lists of texts its {_verdict(report.roles)}."
        )
    base, direct, total = report.ablated
    three = (base.clean_accuracy, direct.clean_accuracy, total.clean_accuracy)
    changes = [f"clean accuracy {_change(*(each.value for each in three))}"]
    if base.attack_success_rate and direct.attack_success_rate and total.attack_success_rate:
        three = (base.attack_success_rate, direct.attack_success_rate, total.attack_success_rate)
        changes.insert(0, f"the attack success rate {_change(*(each.value for each in three))}")
    return [role, f"Replacing the head by its mean over clean pictures takes {', and '.join(changes)}."]


def _verdict(roles: RoleChange) -> str:
    sign = "below" if roles.changed else "not below"
    return f"{roles.verdict.replace('role ', 'role is ')} ({cell(roles.similarity)}, {sign} {cell(roles.threshold)})"


def _about(report: HeadReport, side: Side) -> str:
    shares = report.properties(side)
    name = max(shares, key=lambda each: shares[each])
    return f"mostly about {name} ({shares[name]:.0%} of what they explain)"


def _change(base: float, direct: float, total: float) -> str:
    return f"from {base:.1%} to {direct:.1%} (direct effect) or {total:.1%} (total effect)"


def _facts(report: HeadReport) -> dict[str, str]:
    facts = {"model": report.model, "data": f"{report.data}, {report.count} pictures"}
    if report.skipped:
        facts["not readable"] = f"{len(report.skipped)} pictures, e.g. {report.skipped[0]}"
    if report.trigger is not None:
        settings = ", ".join(f"{key} {cell(value)}" for key, value in report.trigger.items() if key != "name")
        facts["trigger"] = f"{report.trigger['name']} ({settings})" if settings else str(report.trigger["name"])
    if report.target is not None:
        facts["target class"] = report.target
    known = versions()
    return facts | {
        "texts to choose from": f"{len(report.pool)} texts of {len(report.pool.property_names)} properties",
        "means for ablation": f"over {report.held_out} held-out clean pictures",
        "contributions": "exact convention: divided by nothing, biases apart",
        "seed": str(report.seed),
        "versions": ", ".join(f"{name} {known[name]}" for name in ("clip-decomp", "torch")),
    }


def _texts(report: HeadReport, side: Side) -> list[_TextRow]:
    views = {view.text: place for place, view in enumerate(report.views)}
    span, pool = report.span(side), report.pool
    chosen = zip(span.indices.tolist(), span.explained_variance_ratio.tolist(), strict=True)
    return [_TextRow(pool.texts[k], pool.properties[k], share, views[pool.texts[k]]) for k, share in chosen]


def _properties(report: HeadReport) -> list[tuple[str, list[float]]]:
    """Properties with a share on any side, the largest on clean pictures first."""
    shares = [report.properties(side) for side in report.sides]
    rows = [(name, [each[name] for each in shares]) for name in report.pool.property_names]
    return sorted((row for row in rows if max(row[1]) > 0), key=lambda row: row[1], reverse=True)


def _effects(report: HeadReport) -> list[tuple[str, str, str]]:
    names = {"none": "as it is", "direct": "direct effect", "total": "total effect"}
    return [(names[each.effect], cell(each.attack_success_rate), cell(each.clean_accuracy)) for each in report.ablated]


def _groups(report: HeadReport) -> list[tuple[str, list[tuple[int, str]]]]:
    found: dict[str, list[tuple[int, str]]] = {}
    for place, view in enumerate(report.views):
        found.setdefault(_GROUPS[view.source], []).append((place, view.text))
    return list(found.items())


def _digits(report: HeadReport) -> int:
    """Decimals that give the largest push three digits."""
    pushes = [
        shown.push for view in report.views for side in report.sides for shown in _shown(view.side(side))
    ]  # fmt: skip
    largest = max((abs(push) for push in pushes), default=0.0)
    return 3 if largest == 0 else min(9, max(0, 2 - math.floor(math.log10(largest))))


def _shown(pushes: Pushes | None) -> Sequence[Shown]:
    return () if pushes is None else (*pushes.most, *pushes.least)


def _data(report: HeadReport, digits: int) -> dict[str, Any]:
    """What the script draws."""
    pictures: dict[str, dict[str, str]] = {side: {} for side in report.sides}
    for (side, number), uri in report.pictures.items():
        pictures[side][str(number)] = uri
    views = []
    for view in report.views:
        sides = {side: view.side(side) for side in report.sides}
        views.append({"text": view.text} | {k: _pushes(each, digits) for k, each in sides.items() if each is not None})
    return {"digits": digits, "views": views, "pictures": pictures}


def _pushes(pushes: Pushes, digits: int) -> dict[str, Any]:
    # Half of the pictures reach the end of the color scale: one strong patch must not make all others pale.
    end = float(np.median(pushes.strongest)) or float(pushes.strongest.max()) or 1.0

    def tile(shown: Shown) -> dict[str, Any]:
        return {
            "number": shown.number,
            "name": shown.class_name,
            "push": signed(shown.push, digits),
            "rest": signed(shown.rest, digits),
            "map": np.rint(shown.token_map / (end * _STEP)).astype(int).tolist(),
        }

    return {
        "mean": signed(pushes.mean, digits),
        "std": f"{pushes.std:.{digits}f}",
        "end": end,
        "step": end * _STEP,
        "strongest": float(pushes.strongest.max()),
        "most": [tile(shown) for shown in pushes.most],
        "least": [tile(shown) for shown in pushes.least],
    }
