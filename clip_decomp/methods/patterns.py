r"""Full attention patterns, reduced as the layers are computed: rollout, and attention between groups of tokens.

Rollout (Abnar and Zuidema 2020) is the readout row of :math:`\prod_l (r I + (1 - r)\, \bar A_l)`, with
:math:`\bar A_l` the mean over heads and :math:`r` the share of the residual stream. The readout row is the class
token's, the mean of those that are averaged, or what an attention pool pays (mean over its heads).

Patterns of [batch, head, token, token] live as long as their layer runs; what is kept is one matrix, or a few numbers a
head.

Limits: attention says where a head reads, not what it writes; rollout takes all values for equally large, cannot tell
for from against, and knows no text. :func:`clip_decomp.methods.attention.head_maps` does.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> torch.allclose(rollout(model, torch.zeros(2, 3, 64, 64)).sum(1), torch.ones(2))
    True
    >>> attention_between(model, torch.zeros(2, 3, 64, 64)).between("class token", "patches").shape
    torch.Size([8, 12])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..data.sets import BATCH_SIZE
from ..errors import DataError, ModelError, SettingError
from ..model import HookedCLIP
from ..models.pooling import AttentionPooled
from ..models.readouts import Readout

if TYPE_CHECKING:
    import pandas as pd

#: Groups of tokens, in their order; registers count with the class token.
GROUPS = ("class token", "patches", "prompts")


@dataclass(frozen=True)
class GroupAttention:
    """Mean attention of groups of tokens toward each other, over images and the tokens of the attending group.

    Attributes:
        values: attention of the first group toward all tokens of the second; what a group pays adds up to 1.
        groups: those that the tower has: prompts only while some are attached, a class token in most towers.
        layers: which they are.
    """

    values: Float[Tensor, "layer head group group"]
    groups: tuple[str, ...]
    layers: tuple[int, ...]

    def between(self, source: str, to: str) -> Float[Tensor, "layer head"]:
        """Attention of one group toward another in every head.

        Raises:
            SettingError: there is no such group.
        """
        for name in (source, to):
            if name not in self.groups:
                raise SettingError(f"There is no token group {name!r} here: choose from {list(self.groups)}.")
        return self.values[..., self.groups.index(source), self.groups.index(to)]

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a head and one column a pair of groups."""
        import pandas as pd

        names = [f"L{layer}H{head}" for layer in self.layers for head in range(self.values.shape[1])]
        columns = [f"{source} to {to}" for source in self.groups for to in self.groups]
        values = self.values.flatten(2).flatten(0, 1).cpu().numpy()
        return pd.DataFrame(values, columns=columns, index=pd.Index(names, name="head"))

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(float_format=lambda x: f"{x:.3f}")


@torch.no_grad()
def rollout(
    model: HookedCLIP,
    images: Float[Tensor, "batch 3 row column"],
    layers: Sequence[int] | None = None,
    residual: float = 0.5,
    discard: float = 0.0,
    batch_size: int = BATCH_SIZE,
) -> Float[Tensor, "batch token"]:
    """Attention rollout: how much of what the readout reads comes from each input token, by attention alone.

    Layers are multiplied up as they are computed, so one matrix of [batch, token, token] is all that is kept. Prompts
    that a block sees and drops (:mod:`clip_decomp.prompts`) are input tokens of their own behind the others, those of
    the first prompted layer first; rows sum to 1 with them.

    Args:
        images: normalized.
        layers: the layers to multiply, all by default.
        residual: weight of the identity that stands for the residual stream.
        discard: share of each row of the mean attention, its smallest entries, set to 0; rows are normalized again.

    Raises:
        SettingError: a share out of range, or no such layer.
        DataError: no images, or images that are not finite.
        ModelError: the tower is in training mode.
    """
    if not 0 <= residual <= 1 or not 0 <= discard < 1:
        raise SettingError(f"Rollout needs 0 <= residual <= 1 and 0 <= discard < 1, not {residual} and {discard}.")
    chosen = _layers(model, layers)
    check_ready(model.visual.tower, images)
    rows = []
    for batch in images.to(model.device).split(batch_size):
        path = _Path(residual, discard)
        hooks = [(_pattern(layer), path.multiply) for layer in chosen]
        hooks += [(f"blocks.{layer}.hook_resid_post", path.count) for layer in range(model.visual.n_layers)]
        readout = model.visual.readout
        if isinstance(readout, AttentionPooled):
            hooks.append(("attn_pool.attn.hook_pattern", path.pooled))
        with model.visual.hooks(fwd_hooks=hooks):
            model.visual(batch)
        rows.append(path.read(readout))
    return torch.cat(rows)


@torch.no_grad()
def attention_between(
    model: HookedCLIP,
    images: Float[Tensor, "batch 3 row column"],
    layers: Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
) -> GroupAttention:
    """Mean attention of class token, patches and prompts toward each other, in every head.

    Patterns are reduced layer by layer as they are computed. Whatever follows the patches is a prompt.

    Raises:
        SettingError: no such layer, or layers with and without prompts together.
        DataError: no images, or images that are not finite.
        ModelError: the tower is in training mode.
    """
    chosen = _layers(model, layers)
    check_ready(model.visual.tower, images)
    prefix, n_patches = model.visual.n_prefix, model.visual.grid[0] * model.visual.grid[1]
    groups = GROUPS if prefix else GROUPS[1:]
    totals: dict[str, Tensor] = {}

    def add(pattern: Tensor, hook: nn.Module) -> None:
        if pattern.shape[2] < pattern.shape[3]:
            raise SettingError("Prompts attached as keys attend to nothing: attach them as tokens.")
        parts = [part for part in (prefix, n_patches, pattern.shape[-1] - prefix - n_patches) if part]
        toward = torch.stack([part.sum(-1) for part in pattern.float().split(parts, dim=-1)], dim=-1)
        of = torch.stack([part.mean(2) for part in toward.split(parts, dim=2)], dim=2)
        totals[hook.name] = totals.get(hook.name, 0) + of.sum(0, dtype=torch.float64)

    with model.visual.hooks(fwd_hooks=[(_pattern(layer), add) for layer in chosen]):
        for batch in images.to(model.device).split(batch_size):
            model.visual(batch)
    found = [totals[_pattern(layer)] / len(images) for layer in chosen]
    if len({each.shape for each in found}) > 1:
        with_prompts = [layer for layer, each in zip(chosen, found, strict=True) if each.shape[-1] == len(groups)]
        raise SettingError(f"Only layers {with_prompts} have prompts: ask for layers with or without them.")
    return GroupAttention(torch.stack(found).float(), groups[: found[0].shape[-1]], tuple(chosen))


@torch.no_grad()
def group_attention(
    model: HookedCLIP,
    images: Float[Tensor, "batch 3 row column"],
    group: str,
    layer: int,
    batch_size: int = BATCH_SIZE,
) -> Float[Tensor, "batch token"]:
    """What a group's tokens attend to in one layer, mean over these tokens and over heads; every row adds up to 1.

    Args:
        group: one of ``GROUPS``; prompts have to be attached as tokens.

    Raises:
        SettingError: no such layer, or the tower has no such group there.
        DataError: no images, or images that are not finite.
        ModelError: the tower is in training mode.
    """
    (chosen,) = _layers(model, [layer])
    check_ready(model.visual.tower, images)
    prefix, n_patches = model.visual.n_prefix, model.visual.grid[0] * model.visual.grid[1]
    ends = dict(
        zip(GROUPS, (slice(0, prefix), slice(prefix, prefix + n_patches), slice(prefix + n_patches, None)), strict=True)
    )
    if group not in ends:
        raise SettingError(f"There is no token group {group!r}: choose from {list(GROUPS)}.")
    found: list[Tensor] = []

    def keep(pattern: Tensor, hook: nn.Module) -> None:
        rows = pattern[:, :, ends[group]]
        if not rows.shape[2]:
            raise SettingError(f"Layer {chosen} of this tower has no {group}, or as keys, which attend to nothing.")
        found.append(rows.float().mean((1, 2)))

    with model.visual.hooks(fwd_hooks=[(_pattern(chosen), keep)]):
        for batch in images.to(model.device).split(batch_size):
            model.visual(batch)
    return torch.cat(found)


def check_ready(tower: nn.Module, images: Tensor) -> None:
    """Refuse a tower in training mode (ModelError), and no images or images that are not finite (DataError)."""
    for name, module in tower.named_modules():
        if module.training:
            raise ModelError(f"The image tower{'.' + name if name else ''} is in training mode: call .eval() first.")
    if not len(images):
        raise DataError("There are no images.")
    bad = (~images.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(f"Images {bad[:5]} hold pixels that are not finite: leave them out.")


def _layers(model: HookedCLIP, layers: Sequence[int] | None) -> list[int]:
    count = model.visual.n_layers
    wanted = range(count) if layers is None else layers
    for layer in wanted:
        if not -count <= layer < count:
            raise SettingError(f"There is no layer {layer}: this tower has {count}.")
    chosen = sorted({layer % count for layer in wanted})
    if not chosen:
        raise SettingError("There are no layers: name one or more.")
    return chosen


def _pattern(layer: int) -> str:
    return f"blocks.{layer}.attn.hook_pattern"


class _Path:
    """The rollout so far, and how many tokens the last block passed on."""

    def __init__(self, residual: float, discard: float):
        self.residual, self.discard = residual, discard
        self.product: Float[Tensor, "batch token token"] | None = None
        self.passed: int | None = None
        self.row: Float[Tensor, "batch token"] | None = None

    def pooled(self, pattern: Float[Tensor, "batch pool 1 token"], hook: nn.Module) -> None:
        """What an attention pool pays to the tokens that it sees."""
        self.row = pattern[:, :, 0].float().mean(1)

    def read(self, readout: Readout) -> Float[Tensor, "batch token"]:
        """The readout's row of the product."""
        assert self.product is not None
        if isinstance(readout, AttentionPooled):
            assert self.row is not None
            rows = self.product[:, readout.start : readout.start + self.row.shape[1]]
            return (self.row[:, None] @ rows)[:, 0]
        return readout.summary(self.product)

    def count(self, stream: Tensor, hook: nn.Module) -> None:
        """Prompts may have been dropped behind a block: what is attached to its output was attached before us."""
        self.passed = stream.shape[1]

    def multiply(self, pattern: Tensor, hook: nn.Module) -> None:
        """One layer's step; its rows sum to 1."""
        mean = pattern.float().mean(1)
        least = int(self.discard * mean.shape[-1])
        if least:
            mean = mean.scatter(-1, mean.topk(least, largest=False).indices, 0.0)
        mean = mean / mean.sum(-1, keepdim=True)
        mixed = self.residual * torch.eye(*mean.shape[1:], device=mean.device) + (1 - self.residual) * mean
        if self.product is None:
            self.product = mixed
            return
        carried = mixed.shape[-1] if self.passed is None else min(self.passed, mixed.shape[-1])
        self.product = torch.cat(
            [mixed[..., :carried] @ self.product[:, :carried], mixed[..., carried:]],
            dim=-1,
        )
