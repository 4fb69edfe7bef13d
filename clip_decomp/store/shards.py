"""One shard: a fixed number of pictures, decomposed in batches that never reach into another shard.

Tensors lie component by component, ``heads`` as ``[layer, head, image, rank]`` and ``mlps`` as
``[layer, image, d_embed]``, so that reading one head of a whole data set touches nothing else. In half precision each
has a ``NAME.power`` beside it, the power of two of every vector. ``indices`` are the pictures' places in the source of
the data; pictures that cannot be read are listed in the file's facts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..attacks.triggers import Trigger
from ..convention import convention
from ..data.files import EncodedSource
from ..data.sets import ImageSet
from ..decomposition import Decomposition
from ..errors import DataError
from ..model import HookedCLIP
from .files import scratch_tensors, shard_file, sums_file
from .packing import to_half
from .plan import Plan, parts_of
from .sums import Sums, add, sums_of

#: The image axis of tensors in a shard; 0 of all others.
IMAGE_AXIS = {"heads": 2, "mlps": 1}


def image_axis(name: str) -> int:
    """The image axis of a tensor in a shard, with or without ``.power``."""
    return IMAGE_AXIS.get(name.removesuffix(".power"), 0)


def write_shard(
    folder: Path,
    plan: Plan,
    number: int,
    model: HookedCLIP,
    data: ImageSet,
    trigger: Trigger | None,
    basis: Tensor,
    bar: tqdm,
) -> int:
    """Decompose a shard's pictures; the shard is there, with its sums, when its file has its name. Returns how many.

    Raises:
        DataError: a decomposition is not finite; the message names the picture.
    """
    places = plan.shard(number)
    part = replace(data.subset(torch.arange(places.start, places.stop)), skipped=[])
    rule, pieces, sums = convention(plan.settings["convention"]), defaultdict(list), Sums()
    images = 0
    for batch in part.batches(plan.settings["batch_size"]):
        pixels = batch.images.float() / 255
        pixels = pixels if trigger is None else trigger(pixels, batch.indices)
        dec = model.decompose(model.normalize(pixels), convention=rule)
        found = _tensors(dec, basis, plan.settings["dtype"]) | {"labels": batch.labels, "indices": batch.indices}
        _require_finite(found, dec, data, batch.indices)
        for name, value in found.items():
            pieces[name].append(value.cpu())
        add(sums, sums_of(dec, basis))
        images += len(batch.images)
        bar.update(len(batch.images))
    tensors = {name: torch.cat(pieces.pop(name), dim=image_axis(name)) for name in list(pieces)}
    unread = places.stop - places.start - images
    facts = {"shard": number, "images": images, "unread": unread, "skipped": part.skipped}
    shard = scratch_tensors(shard_file(folder, number), tensors, plan.identity, facts)
    known = {"images": images, "unread": unread, "bytes": shard.size, "sha256": shard.sha256()}
    sums = {name: value.cpu() for name, value in sums.items()}
    scratch_tensors(sums_file(folder, number), sums, plan.identity, known).publish()
    shard.publish()
    return images


def _tensors(dec: Decomposition, basis: Tensor, dtype: str) -> dict[str, Tensor]:
    vectors = {"heads": dec.coordinates(basis).permute(1, 2, 0, 3), "mlps": dec.mlps.transpose(0, 1), **parts_of(dec)}
    result = {"norm": dec.norm.float(), "scale": dec.scale.float()}
    for name, value in vectors.items():
        if dtype == "fp16":
            result[name], result[f"{name}.power"] = to_half(value)
        else:
            result[name] = value.float()
    return result


def _require_finite(found: dict[str, Tensor], dec: Decomposition, data: ImageSet, indices: Tensor) -> None:
    for name, value in found.items():
        if name.endswith(".power") or not value.is_floating_point():
            continue
        fine = torch.isfinite(value)
        if bool(fine.all()):
            continue
        axis = image_axis(name)
        image = (
            int((~fine.movedim(axis, 0).flatten(1).all(1)).nonzero()[0])
            if value.ndim > 1
            else int((~fine).nonzero()[0])
        )
        raise DataError(
            f"{data.name}: the decomposition of {_picture(data, int(indices[image]))} is NaN or infinite (its {name}): "
            "leave the picture out, or check the model's weights."
        )


def _picture(data: ImageSet, index: int) -> str:
    named = isinstance(data.source, EncodedSource)
    return f"picture {index}" + (f" ({data.source.names[index]})" if named else "")
