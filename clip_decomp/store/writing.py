"""Writing a store: resumable at any moment, by any number of processes, to the same bytes.

The plan is written first. Then every shard is decomposed in batches that belong to it alone, written to a temporary
name and renamed; a shard counts when it has its name and its sums beside it. The main process merges sums in the order
of the shards, and a store is complete when its manifest says so, which is written last. Under ``torchrun`` or
``accelerate launch`` process r of n takes shards r, r + n, ...

Limits: the same bytes need the same kind of machine and the same versions; of matrix products that differ in the last
bit between processors nothing can be promised. The manifest's versions are compared, processors are not.

Example:
    >>> import tempfile
    >>> import clip_decomp
    >>> model, data = clip_decomp.load("world/clean"), clip_decomp.open_data("world", 64, test=6)
    >>> folder = tempfile.mkdtemp()
    >>> write_store(model, data.test, folder, shard_size=4).images
    6
    >>> write_store(model, data.test, folder, shard_size=4).images  # it is complete: nothing to do
    0
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..attacks.triggers import Trigger
from ..convention import EXACT, Convention, convention
from ..data.sets import BATCH_SIZE, ImageSet
from ..decomposition import Decomposition
from ..errors import DataError, SettingError
from ..model import HookedCLIP
from ..training.parallel import Processes, launched
from .files import (
    BASIS,
    MANIFEST,
    locked,
    opened,
    publish_json,
    remove_scratch,
    scratch_tensors,
    shard_file,
)
from .plan import Plan, make_plan, read_plan
from .reading import Store, open_store
from .shards import write_shard
from .sums import merge, merged, remove_merged, written

#: Pictures a shard. What a kill can cost is at most one shard's work of every process.
SHARD_SIZE = 1024


@dataclass(frozen=True)
class Written:
    """What a run did.

    Attributes:
        images: pictures that all processes decomposed in this run; 0 if the store was complete.
        seconds: what they took, reading pictures and writing files included.
        main: whether this is the process that reports.
    """

    store: Store
    images: int
    seconds: float
    main: bool


@torch.no_grad()
def write_store(
    model: HookedCLIP,
    data: ImageSet,
    folder: Path | str,
    trigger: Trigger | None = None,
    rule: str | Convention = EXACT,
    dtype: str = "fp16",
    shard_size: int = SHARD_SIZE,
    batch_size: int = BATCH_SIZE,
    progress: str | None = None,
) -> Written:
    """Decompose a data set, under a trigger if one is given, into a store, or go on with what is there.

    Args:
        folder: made if it is missing.
        dtype: ``fp16`` (relative error below 1e-3) or ``fp32``.
        shard_size: pictures a file.
        batch_size: pictures at a time.
        progress: the label of a progress bar; none without it.

    Raises:
        SettingError: a setting out of range, a store of another model, data or settings, or another run at work there.
        DataError: none of the pictures can be read, or a decomposition is not finite.
    """
    folder, here = Path(folder), launched(model.device)
    if here.device is not None:
        model.to(here.device)
    size = model.visual.image_size
    probe = model.decompose(torch.zeros(1, 3, size, size), convention=convention(rule))
    settings = {"dtype": dtype, "shard_size": shard_size, "batch_size": batch_size}
    plan = make_plan(model, data, probe, trigger, convention(rule), **settings)
    complete = _agrees(folder, plan)
    here.wait()  # all have seen the folder as it was
    images, start = 0, time.perf_counter()
    if not complete:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) if here.main else nullcontext():
            images = _write(folder, plan, model, data, trigger, probe, here, progress)
    elif here.main:
        _clean(folder)
    images = int(here.gather(torch.tensor([images], device=model.device))[0].sum())
    return Written(open_store(folder), images, time.perf_counter() - start, here.main)


def _agrees(folder: Path, plan: Plan) -> bool:
    """Whether the store is complete already; False also where there is none."""
    if not (folder / MANIFEST).exists():
        if (folder / BASIS).exists() or any(folder.glob("shard-*.safetensors")):
            raise DataError(f"{folder}: it holds parts of a store without their {MANIFEST}: delete the folder.")
        return False
    there, manifest = read_plan(folder)
    there.require(plan, folder, manifest["complete"])
    return manifest["complete"]


def _write(
    folder: Path,
    plan: Plan,
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None,
    probe: Decomposition,
    here: Processes,
    progress: str | None,
) -> int:
    shards: list[dict[str, Any]] = []
    if here.main:
        shards = _prepare(folder, plan, probe)
    here.wait()
    plan, manifest = read_plan(folder)
    if manifest["complete"]:  # another run was faster
        return 0
    with opened(folder / BASIS, plan.identity) as stored:
        basis = stored.read("basis").to(probe.head_basis)
    own = range(here.rank, plan.n_shards, here.count)
    known = len(shards) if here.main else len(merged(folder, plan))
    todo = [number for number in own if number >= known and not written(folder, plan, number)]
    here.wait()  # nobody merges sums that another one still looks for
    total = sum(plan.shard(number).stop - plan.shard(number).start for number in todo)
    images = 0
    with (
        _threads(plan.made_with["threads"]),
        tqdm(total=total, desc=progress, unit="picture", disable=progress is None or not here.main, leave=False) as bar,
    ):
        for number in todo:
            images += write_shard(folder, plan, number, model, data, trigger, basis, bar)
            if here.main:
                shards = merge(folder, plan, shards)
    here.wait()
    if here.main:
        _finish(folder, plan, data, merge(folder, plan, shards))
    return images


def _prepare(folder: Path, plan: Plan, probe: Decomposition) -> list[dict[str, Any]]:
    """Clean up behind a killed run, or start; returns what is known of the shards that are merged."""
    remove_scratch(folder)
    if not (folder / MANIFEST).exists():
        publish_json(folder / MANIFEST, plan.manifest())
    plan, _ = read_plan(folder)
    if not (folder / BASIS).exists():
        scratch_tensors(folder / BASIS, {"basis": _on_cpu(probe.head_basis)}, plan.identity, {}).publish()
    shards = merged(folder, plan)
    remove_merged(folder, shards)
    return shards


def _finish(folder: Path, plan: Plan, data: ImageSet, shards: list[dict[str, Any]]) -> None:
    skipped: list[str] = []
    for number in range(plan.n_shards):
        with opened(shard_file(folder, number), plan.identity) as shard:
            skipped += shard.facts["skipped"]
    images = sum(shard["images"] for shard in shards)
    if not images:
        raise DataError(f"{data.name}: none of the {len(data)} images can be read, e.g. {skipped[0]}")
    remove_merged(folder, shards)
    counts = {"images": images, "skipped": sum(shard["unread"] for shard in shards)}
    publish_json(folder / MANIFEST, plan.manifest(counts=counts, skipped_images=skipped, shards=shards))
    remove_scratch(folder)


def _clean(folder: Path) -> None:
    """What a run that was killed after the last step has left; nothing while another one is at work."""
    try:
        with locked(folder):
            remove_scratch(folder)
    except SettingError:
        pass


def _on_cpu(value: Tensor) -> Tensor:
    return value.detach().float().cpu()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with as many threads as the run that began the store."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
