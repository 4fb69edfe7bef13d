"""Float64 sums over pictures, shard by shard: what means and covariances of a store are made of.

A shard's sums are those of its batches, added in order, as the live decomposition gave them, before any rounding to
half precision. ``statistics.safetensors`` is the sum over shards in the order of their numbers, whoever wrote them and
whenever, so it has the same bits after any interruption and with any number of processes. It grows as a prefix: once
shards 0 to k are in it, their own sums are deleted.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from ..decomposition import Decomposition
from ..errors import DataError
from ..moments import Statistics
from .files import ANEW, STATISTICS, opened, scratch_tensors, shard_file, sums_file
from .packing import to_triangle
from .plan import Plan, parts_of

Sums = dict[str, Tensor]


def sums_of(dec: Decomposition, basis: Tensor) -> Sums:
    """Of one batch: :class:`~clip_decomp.moments.Statistics` with second moments packed, and sums of other parts."""
    found = Statistics.of(dec, basis)
    every = {field.name: getattr(found, field.name) for field in fields(Statistics)}
    result = {name: value for name, value in every.items() if name.endswith("_sum")}
    result |= {name: to_triangle(value) for name, value in every.items() if name.endswith("_second")}
    return result | {f"{name}_sum": value.double().sum(0) for name, value in parts_of(dec).items()}


def add(total: Sums, more: Sums) -> None:
    """Add in place."""
    for name, value in more.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value


def written(folder: Path, plan: Plan, number: int) -> bool:
    """Whether a shard and its sums are there and whole."""
    try:
        with opened(sums_file(folder, number), plan.identity) as sums:
            return _whole(folder, plan, number, sums.facts)
    except DataError:
        return False


def merged(folder: Path, plan: Plan) -> list[dict[str, Any]]:
    """What is known of the shards whose sums are in ``statistics.safetensors``.

    Raises:
        DataError: one of these shards is missing or is not what it was.
    """
    if not (folder / STATISTICS).exists():
        return []
    with opened(folder / STATISTICS, plan.identity) as found:
        shards = found.facts["shards"]
    for number, facts in enumerate(shards):
        if not _whole(folder, plan, number, facts):
            raise DataError(
                f"{shard_file(folder, number)}: missing, or not what was written, but its sums are merged. {ANEW}"
            )
    return shards


def merge(folder: Path, plan: Plan, shards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add the sums of the next shards to ``statistics.safetensors``; returns what is known of all shards in it.

    Args:
        shards: what was known before, from :func:`merged` or the last call.
    """
    known, total, shards = len(shards), {}, list(shards)
    while len(shards) < plan.n_shards and written(folder, plan, len(shards)):
        if len(shards) == known and known:
            total = _load(folder / STATISTICS, plan)[0]
        more, facts = _load(sums_file(folder, len(shards)), plan)
        add(total, more)
        shards.append(facts)
    if len(shards) > known:
        facts = {"shards": shards, "images": sum(shard["images"] for shard in shards)}
        scratch_tensors(folder / STATISTICS, total, plan.identity, facts).publish()
        for number in range(known, len(shards)):
            sums_file(folder, number).unlink(missing_ok=True)
    return shards


def remove_merged(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Delete sums that a killed process had merged but not deleted."""
    for number in range(len(shards)):
        sums_file(folder, number).unlink(missing_ok=True)


def _whole(folder: Path, plan: Plan, number: int, facts: dict[str, Any]) -> bool:
    file = shard_file(folder, number)
    try:
        with opened(file, plan.identity) as shard:
            return shard.facts["shard"] == number and file.stat().st_size == facts["bytes"]
    except DataError:
        return False


def _load(file: Path, plan: Plan) -> tuple[Sums, dict[str, Any]]:
    with opened(file, plan.identity) as found:
        return {name: found.read(name).clone() for name in found.keys()}, found.facts  # noqa: SIM118 - not a dict
