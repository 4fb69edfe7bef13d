"""What a store is of: model, data and settings. It is written first, and whoever goes on with a store must agree.

Two runs agree if the weights' fingerprints, the digests of the data and all settings are the same; an unfinished store
also wants the same versions, because other ones may round otherwise. Names may differ. The number of threads is part of
the plan, too: matrix products depend on it, so a resumed run takes the number that the first one had.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from ..attacks.triggers import Trigger
from ..convention import Convention
from ..data.sets import ImageSet
from ..decomposition import Decomposition
from ..errors import DataError, SettingError
from ..model import HookedCLIP
from ..models.fingerprint import fingerprint
from ..results import versions
from .digest import data_digest
from .files import MANIFEST, read_json

FORMAT = 1
DTYPES = ("fp16", "fp32")
#: Parts of the sum that are one vector a picture; the last is of attention-pooled towers alone.
PARTS = ("embedding", "bias", "pool_mlp")


@dataclass(frozen=True)
class Plan:
    """See the module.

    Attributes:
        model: name, fingerprint and shape.
        data: name, class names, number of pictures, digest.
        settings: how contributions are computed and stored.
        made_with: versions and threads.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    made_with: dict[str, Any]

    @property
    def identity(self) -> str:
        """What every file of the store is marked with."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.data["pictures"] // self.settings["shard_size"])

    def shard(self, number: int) -> slice:
        """Places in the data of a shard's pictures."""
        size = self.settings["shard_size"]
        return slice(number * size, min((number + 1) * size, self.data["pictures"]))

    def manifest(self, **found: Any) -> dict[str, Any]:
        """What ``manifest.json`` says.

        Args:
            found: what is known once the store is complete.
        """
        return {"format": FORMAT, "complete": bool(found), **asdict(self), **found}

    def require(self, other: Plan, folder: Path, complete: bool) -> None:
        """Check that a run may go on with the store in ``folder``, whose plan this is.

        Raises:
            SettingError: it may not; the message says what differs.
        """
        pairs = {
            "model": (_model(self), _model(other)),
            "data": (_data(self), _data(other)),
            **{key: (self.settings.get(key), other.settings.get(key)) for key in {**self.settings, **other.settings}},
        }
        if not complete:
            pairs["versions"] = self.made_with["versions"], other.made_with["versions"]
        differing = [
            f"{key} is {_short(there)} there and {_short(here)} here"
            for key, (there, here) in pairs.items()
            if (there[1:] != here[1:] if isinstance(there, tuple) else there != here)
        ]
        if differing:
            raise SettingError(
                f"{folder} holds another store ({'; '.join(differing)}): use another folder, or delete this one."
            )


def make_plan(
    model: HookedCLIP, data: ImageSet, probe: Decomposition, trigger: Trigger | None, rule: Convention, **settings: Any
) -> Plan:
    """The plan of a run.

    Args:
        probe: any decomposition by this model.
        settings: ``dtype``, ``shard_size``, ``batch_size``.

    Raises:
        SettingError: a setting out of range.
    """
    if settings["dtype"] not in DTYPES:
        raise SettingError(f"There is no dtype {settings['dtype']!r} for a store: use fp16 or fp32.")
    for name in ("shard_size", "batch_size"):
        if settings[name] < 1:
            raise SettingError(f"A store's {name.replace('_', ' ')} must be 1 or more, not {settings[name]}.")
    layers, heads, rank, width = probe.head_basis.shape
    shape = {"layers": layers, "heads": heads, "rank": rank, "d_embed": width, "parts": list(parts_of(probe))}
    weights = next(model.visual.parameters())
    return Plan(
        model={"name": model.name, "fingerprint": fingerprint(model), **shape},
        data={
            "name": data.name,
            "pictures": len(data),
            "class_names": list(data.class_names),
            "digest": data_digest(data, trigger),
        },
        settings={
            **settings,
            "convention": rule.name,
            "attack": None if trigger is None else json.loads(json.dumps(trigger.settings())),
            "device": model.device.type,
            "precision": str(weights.dtype).removeprefix("torch."),
            # What decides and is not in the weights.
            "normalization": {"mean": list(model.mean), "std": list(model.std)},
            "activations": _activations(model),
        },
        made_with={
            "versions": {name: value for name, value in versions().items() if name in ("clip-decomp", "torch")},
            "threads": torch.get_num_threads(),
        },
    )


def parts_of(dec: Decomposition) -> dict[str, torch.Tensor]:
    """Contributions that are one vector a picture, by name; those that a tower does not have are left out."""
    found = {name: getattr(dec, name, None) for name in PARTS}
    return {name: value for name, value in found.items() if value is not None}


def read_plan(folder: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan of the store in a folder, and its whole manifest.

    Raises:
        DataError: there is no store, or one of another version.
    """
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder}: there is no store, as it has no {MANIFEST}; write one with clip-decomp decompose.")
    found = read_json(folder / MANIFEST)
    if found.get("format") != FORMAT:
        raise DataError(f"{folder / MANIFEST}: format {found.get('format')!r} is not the one known here, {FORMAT}.")
    try:
        plan = Plan(**{name: dict(found[name]) for name in ("model", "data", "settings", "made_with")})
        sizes = [plan.data["pictures"], plan.settings["shard_size"], plan.made_with["threads"]]
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"sizes must be positive, not {sizes}")
        if found["complete"]:
            for shard in found["shards"]:
                if not isinstance(shard["images"] + shard["bytes"], int) or not isinstance(shard["sha256"], str):
                    raise ValueError(f"shards must have images, bytes and a hash, not {shard}")
            if len(found["shards"]) != plan.n_shards:
                raise ValueError(f"{len(found['shards'])} shards are listed, but there must be {plan.n_shards}")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST}: not a manifest of a store ({type(error).__name__}: {error}).") from error
    return plan, found


def _activations(model: HookedCLIP) -> list[str]:
    """Classes of activations such as ``QuickGELU``, which weights do not tell from ``GELU``."""
    leaves = (type(module).__name__ for module in model.visual.modules() if not list(module.parameters()))
    return sorted({name for name in leaves if name.lower().endswith(("elu", "ilu"))})


def _model(plan: Plan) -> tuple[str, str, int]:
    """The first is shown, the rest compared."""
    return f"{plan.model['name']} ({plan.model['fingerprint'][:12]})", plan.model["fingerprint"], plan.model["rank"]


def _data(plan: Plan) -> tuple[str, str]:
    data = plan.data
    return f"{data['name']} ({data['pictures']} pictures, {data['digest'][:12]})", data["digest"]


def _short(value: Any) -> str:
    return value[0] if isinstance(value, tuple) else shorten(json.dumps(value), 80)
