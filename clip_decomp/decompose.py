"""One forward pass of a hooked tower, turned into the factors of a :class:`~clip_decomp.decomposition.Decomposition`.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> decompose(model.visual, torch.zeros(1, 3, 64, 64)).mlps.shape
    torch.Size([1, 8, 128])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .convention import EXACT, Convention, convention
from .decomposition import Decomposition
from .errors import ModelError
from .folded import FoldedHeads
from .models.hooked_block import Constants
from .models.hooked_text import HookedText, UnhookedText
from .models.hooked_vit import HookedViT
from .models.partless import PartlessTower
from .models.readers import wide
from .models.readouts import Reading, ReadMap
from .models.recording import Record


def decompose(
    tower: HookedViT | PartlessTower,
    images: Float[Tensor, "batch 3 row column"],
    tokens: bool = False,
    convention_name: str | Convention = EXACT,
    record: Record | None = None,
) -> Decomposition:
    """Decompose the representations of ``images`` in one forward pass.

    Args:
        images: normalized, as for ``encode_image``.
        tokens: keep every token's values, for :meth:`Decomposition.tokens` and :meth:`Decomposition.token_map`.
        convention_name: ``exact`` or ``paper``.
        record: one of your own, to look into.

    Raises:
        ModelError: the tower is in training mode, is no sum of heads and MLPs, or has no ``paper`` convention.
        SettingError: images of another shape, or an unknown convention.
    """
    rule = convention(convention_name)
    if isinstance(tower, PartlessTower):
        tower.refuse()
    for name, module in tower.tower.named_modules():
        if module.training:
            raise ModelError(f"The image tower{'.' + name if name else ''} is in training mode: call .eval() first.")
    if rule.spread and tower.readout.reader.deferred:
        raise ModelError(
            f"convention={rule.name!r} spreads one mean an image over its components, and this tower, which reads by "
            f"{tower.readout.describes}, has one a token: use convention='exact'."
        )
    record = Record() if record is None else record
    record.tokens = tokens
    return _recorded(tower, images, record, rule)


def decompose_text(
    tower: HookedText | UnhookedText,
    ids: Int[Tensor, "text position"],
    tokens: bool = False,
    convention_name: str | Convention = EXACT,
) -> Decomposition:
    """Decompose the representations of texts in one forward pass.

    Tokens are positions of the text, start and end tokens included, up to the longest text's end where nothing behind
    it can matter; CoCa's class token is behind them.

    Args:
        ids: token ids.

    Raises:
        ModelError: the tower is in training mode, or its parts are not known.
        SettingError: an unknown convention.
    """
    rule = convention(convention_name)
    if isinstance(tower, UnhookedText):
        tower.refuse()
    tower.check_mode()
    return _recorded(tower, ids, Record(tokens=tokens), rule)


def _recorded(tower: HookedViT | HookedText, inputs: Tensor, record: Record, rule: Convention) -> Decomposition:
    representation = wide(tower(inputs, record))
    return _from_record(tower, record, representation, rule)


@dataclass(frozen=True)
class Observation:
    """What a pass leaves behind for those who watch activity where the tower is read.

    In class-token towers that is the class token. In others it is the average that the readout takes, over every
    token's sigma where tokens are normed one by one; of several pool heads, their mean.

    Attributes:
        features: representations.
        z: attention-weighted values, as the heads computed them.
        mlps: what MLPs wrote, biases included, in the joint space; unlike a contribution not over the image's sigma.
    """

    features: Float[Tensor, "batch d_embed"]
    z: Float[Tensor, "batch layer head d_head"]
    mlps: Float[Tensor, "batch layer d_embed"]


def observe(
    tower: HookedViT | PartlessTower, images: Float[Tensor, "batch 3 row column"], record: Record | None = None
) -> Observation:
    """Representations and the activity behind them: no head is projected, so it costs little more than the pass.

    A pure function of the images: nothing is attached, and what is recorded belongs to this pass.

    Args:
        record: one of your own, to keep more or to edit on the way.

    Raises:
        ModelError: the tower is no sum of heads and MLPs.
    """
    if isinstance(tower, PartlessTower):
        tower.refuse()
    record = Record(rows=False) if record is None else record
    features = tower(images, record)
    if tower.readout.reader.deferred:
        tower.readout.reading(record)
    z, written = wide(torch.stack(record.z, dim=1)), wide(torch.stack(record.mlp, dim=1))
    return Observation(features, z.mean(3) if z.ndim > 4 else z, tower.readout.read_map()(written))


@dataclass(frozen=True)
class _Folding:
    """What the weights alone determine of every decomposition.

    Attributes:
        attention_fixed, attention_scaled: constants of every layer's attention in the stream, zero without any.
        has_scaled: whether any block has norms behind its attention or MLP.
    """

    read: ReadMap
    heads: FoldedHeads
    attention_fixed: Float[Tensor, "layer d_model"]
    attention_scaled: Float[Tensor, "layer d_model"]
    mlp_fixed: Float[Tensor, "layer d_model"]
    mlp_scaled: Float[Tensor, "layer d_model"]
    has_scaled: bool

    @classmethod
    def of(cls, tower: HookedViT | HookedText, center: bool) -> _Folding:
        read = tower.readout.read_map(center)
        inward = _filled((_inward(block.w_heads, read) for block in tower.blocks), len(tower.blocks))
        heads = FoldedHeads(inward, read.outward)
        attention = [block.attention_constants for block in tower.blocks]
        mlp = [block.mlp_constants for block in tower.blocks]
        scaled = any(each.scaled is not None for each in (*attention, *mlp))
        return cls(read, heads, *_stacked_constants(attention), *_stacked_constants(mlp), scaled)


def _inward(weights: Float[Tensor, "head d_head d_model"], read: ReadMap) -> Float[Tensor, "head *pool d_head d_inner"]:
    """One layer's output matrices, up to what the readout makes of them."""
    if read.outward is None:
        return weights @ read.inward
    return torch.einsum("hdm,pmx->hpdx", weights, read.inward)


def _filled(layers: Iterable[Tensor], count: int) -> Tensor:
    """Layers stacked one after the other, so that no second copy of all of them is needed."""
    found: Tensor | None = None
    for place, each in enumerate(layers):
        found = each.new_empty(count, *each.shape) if found is None else found
        found[place] = each
    assert found is not None
    return found


def _stacked_constants(constants: list[Constants]) -> tuple[Tensor, Tensor]:
    fixed = torch.stack([each.fixed for each in constants])
    scaled = [torch.zeros_like(each.fixed) if each.scaled is None else each.scaled for each in constants]
    return fixed, torch.stack(scaled)


def _from_record(
    tower: HookedViT | HookedText, record: Record, representation: Tensor, rule: Convention
) -> Decomposition:
    reading = tower.readout.reading(record)
    assert record.final is not None
    assert record.embedding is not None
    folding = tower.kept(("folding", rule.spread), lambda: _Folding.of(tower, not rule.spread))
    read = folding.read
    norm = representation.norm(dim=-1)
    scale = reading.scale / norm if rule.divide_by_norm else reading.scale
    attention = _constants(folding.attention_fixed, folding.attention_scaled, record.attention_norm, reading)
    mlp = _constants(folding.mlp_fixed, folding.mlp_scaled, record.mlp_norm, reading)
    mlps = wide(torch.stack(record.mlp, dim=1))
    layers = mlps.shape[1]
    pool_heads = None
    if rule.spread:
        assert reading.mean is not None
        # Mean and beta go in equal shares to the L attentions, L MLPs and the embedding.
        beta, total = reading.constant, read.inward.sum(0)
        constant = (beta / norm[:, None] if rule.divide_by_norm else beta.expand(len(norm), -1)) - (
            reading.mean * scale
        )[:, None] * total
        share = constant / (2 * layers + 1)
        span = [folding.attention_fixed @ read.inward, *(each.expand(layers, -1) for each in (beta, total))]
        if folding.has_scaled:
            span.append(folding.attention_scaled @ read.inward)
        head_offset, offset_span = read(attention) * scale[:, None, None] + share[:, None], torch.stack(span, dim=1)
        bias = torch.zeros_like(representation)
    else:
        mlps = mlps - mlp
        share = torch.zeros_like(representation)
        head_offset = offset_span = None
        written = attention.sum(1) + mlp.sum(1)
        bias = read(written) * scale[:, None] + reading.constant
        if read.outward is not None:
            pool_heads = read.by_row(record.final - written) * scale[:, None, None]
    return Decomposition(
        z=wide(torch.stack(record.z, dim=1)),
        attention=_stacked(record.attention, -1),
        values=_stacked(record.values, -3) if record.tokens else None,
        norm=norm,
        convention=rule,
        n_prefix=tower.n_prefix,
        pool_mlp=reading.pool_mlp,
        pool_heads=pool_heads,
        scale=scale,
        _folded=folding.heads,
        _reach=_reach(record),
        _mlps=read(mlps) * scale[:, None, None] + share[:, None],
        _embedding=read(wide(record.embedding)) * scale[:, None] + share,
        _head_offset=head_offset,
        _offset_span=offset_span,
        _bias=bias,
    )


def _constants(
    fixed: Float[Tensor, "layer d_model"],
    scaled: Float[Tensor, "layer d_model"],
    norms: list[Tensor | None],
    reading: Reading,
) -> Float[Tensor, "_ layer *pool d_model"]:
    """What every layer's branch writes whatever it sees, as the readout pools it; the same for all images often."""
    rows = 1 if reading.total is None else reading.total.ndim
    spread = (1, len(fixed), *[1] * (rows - 1), -1)
    found = fixed.view(spread)
    if reading.total is not None:
        found = found * reading.total[:, None, ..., None]
    present = [each for each in norms if each is not None]
    if present:
        assert len(present) == len(norms)
        found = found + scaled.view(spread) * torch.stack(present, dim=1)[..., None]
    return found


def _reach(record: Record) -> Tensor | None:
    """Rows of attention with what scales them, where that is not one number an image."""
    if all(each is None for each in record.reach):
        return None
    pairs = zip(record.reach, record.attention, strict=True)
    return _stacked([row if each is None else each for each, row in pairs], -1)


def _stacked(layers: list[Tensor], token_axis: int) -> Tensor:
    """Layers behind the batch axis; where some see fewer tokens (prompts), those that they do not see weigh nothing.

    Args:
        token_axis: counted from the end.
    """
    most = max(each.shape[token_axis] for each in layers)
    before = [0, 0] * (-token_axis - 1)
    padded = [F.pad(each, [*before, 0, most - each.shape[token_axis]]) for each in layers]
    return wide(torch.stack(padded, dim=1))


def read_matrix(tower: HookedViT, rule: Convention = EXACT) -> Float[Tensor, "d_model d_embed"]:
    """What turns a component's output in the residual stream into its contribution, but for the image's scale.

    Raises:
        ModelError: the tower reads through several pool heads, which have a matrix each.
    """
    if tower.readout.rows > 1:
        raise ModelError(f"This tower reads by {tower.readout.describes}: there is no single matrix it reads with.")
    return tower.readout.read_map(center=not rule.spread).inward
