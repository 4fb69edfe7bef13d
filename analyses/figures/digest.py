"""What a figure depends on, in one number: it is drawn again when this changes.

Example:
    >>> code_of("analyses.figures.rvpt") == code_of("analyses.figures.cbpt")
    False
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from .bench import Bench
from .items import Item
from .trainings import Training

_PACKAGE = __name__.partition(".")[0]


def digest_of(
    item: Item,
    bench: Bench,
    attacks: Sequence[str],
    trainings: Sequence[Training],
    left_out: Mapping[str, str],
) -> str:
    """Of settings, models, finished trainings, what is left out and why, and the code of the analyses that draws it."""
    depends = {"item": item.name, **asdict(bench.setting), "models": None, "device": None, "left_out": None}
    depends["left_out"] = {attack: why.partition(" (")[0] for attack, why in left_out.items()}  # not where or how much
    depends["towers"] = {attack: bench.tower(attack) for attack in attacks}
    depends["trainings"] = [fit.name for each in trainings if (fit := bench.fit(each)) is not None]
    there = [name for name in item.models if bench.setting.missing(name) is None]
    depends["models"] = {name: bench.plain_tower(name) for name in there}
    depends["code"] = code_of(item.draw.__module__)
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_of(module: str) -> str:
    """Hash of a module's source and that of all modules of the analyses that it uses, directly or not."""
    seen, waiting = {}, [module]
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in seen or file is None:
            continue
        seen[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for each in vars(sys.modules[name]).values():
            used = getattr(each, "__module__", None) or getattr(each, "__name__", None)
            if isinstance(used, str) and used.startswith(f"{_PACKAGE}."):
                waiting.append(used)
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
