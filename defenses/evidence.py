r"""Why an image was flagged: the heads that deviate, how far, and what each patch has to do with it.

The squared distance of a head's z from its clean mean is a sum over tokens but for a constant,

.. math::  d^2 = \sum_n a_n v_n^T \Sigma^{-1} (z - \mu) - \mu^T \Sigma^{-1} (z - \mu)

so a token's share of it is exact: attention times value, along the direction in which the head deviates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clip_decomp.decompose import observe
from clip_decomp.methods.attention import patch_grid
from clip_decomp.model import HookedCLIP
from clip_decomp.models.recording import Record

from .deviation import Deviation


@dataclass(frozen=True)
class DeviantHead:
    """A head that is unlike itself on clean images.

    Attributes:
        deviation: in standard deviations of clean log-distances.
        tail_probability: how often a clean image deviates as far, by the log-normal fit.
        tokens: what each patch adds to the squared distance; the class token and any others are left out.
    """

    layer: int
    head: int
    deviation: float
    tail_probability: float
    tokens: Float[Tensor, "row column"]

    @property
    def name(self) -> str:
        """As in ``L11H3``."""
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True)
class Evidence:
    """Evidence against one image.

    Attributes:
        heads: the most deviant heads, the farthest first.
        mlps: deviation of every layer's MLP.
        of_heads, of_mlps: deviation of all heads together, and of all MLPs.
    """

    heads: tuple[DeviantHead, ...]
    mlps: tuple[float, ...]
    of_heads: float
    of_mlps: float

    @property
    def token_map(self) -> Float[Tensor, "row column"]:
        """Patches' shares in the most deviant head."""
        return self.heads[0].tokens


def evidence(
    model: HookedCLIP,
    deviation: Deviation,
    images: Float[Tensor, "batch 3 row column"],
    flagged: Bool[Tensor, " batch"],
    heads: int,
) -> dict[int, Evidence]:
    """Evidence against flagged images, by their place in the batch; they are encoded one by one."""
    found = {}
    for place in flagged.nonzero()[:, 0].tolist():
        record = Record(tokens=True)
        measured = deviation.measure(observe(model.visual, images[place : place + 1], record))
        each = measured.heads[0]
        largest = each.flatten().topk(min(heads, each.numel()))
        units = zip(largest.indices.tolist(), largest.values.tolist(), strict=True)
        found[place] = Evidence(
            tuple(_deviant(model, deviation, record, *divmod(unit, each.shape[1]), value) for unit, value in units),
            tuple(measured.mlps[0].tolist()),
            float(measured.of_heads[0]),
            float(measured.of_mlps[0]),
        )
    return found


def _deviant(
    model: HookedCLIP, deviation: Deviation, record: Record, layer: int, head: int, value: float
) -> DeviantHead:
    spread = deviation.heads
    z, reach = record.z[layer][0, head].float(), record.reach[layer]
    row = (record.attention[layer] if reach is None else reach)[0, head].float()
    if z.ndim > 1:  # pool heads, whose mean is observed
        z, row = z.mean(0), row.mean(0)
    direction = spread.precision[layer, head] @ (z - spread.mean[layer, head])
    weighted = row[:, None] * record.values[layer][0, :, head].float()
    patches = patch_grid(weighted @ direction, model.visual.grid, prefix=model.visual.n_prefix)
    return DeviantHead(layer, head, value, tail_probability(value), patches.cpu())


def tail_probability(deviation: float) -> float:
    """How often a clean image deviates as far, by the log-normal fit."""
    return float(torch.special.log_ndtr(torch.tensor(-deviation, dtype=torch.double)).exp())
