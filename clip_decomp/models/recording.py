"""What one forward pass of a hooked tower leaves behind for a decomposition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from .readers import CLASS_TOKEN, Average, Heard, Reader, wide


@dataclass
class Record:
    """What one forward pass leaves behind for a decomposition; one entry of each list is one layer.

    What is said to be of the readout is the class token's in class-token towers, and pooled over tokens as the readout
    pools them in others: with one more axis ``pool`` (after the batch, after ``head`` where there are heads) if the
    readout has several rows.

    Attributes:
        tokens: keep the values of every token, too.
        edit_z: what the class token's z of a layer is replaced by, from the layer's number and what it is. Unlike a
            hook it belongs to one pass, so passes of several threads do not meet.
        rows: keep attention rows.
        reader: how tokens are reduced, at the class token if None; the tower sets it.
        layers: how many there will be, so that small values of all of them can lie in one block of memory; the tower
            sets it.
        embedding: residual stream before the first block, of the readout.
        z: attention-weighted values of the readout, over the block's own norms where it has some.
        attention: the readout's row of the attention pattern.
        reach: the same row with everything that scales it; None where it is ``attention`` itself.
        values: values of every token, if ``tokens``.
        mlp: MLP outputs of the readout, biases included.
        attention_norm, mlp_norm: what norms behind attention and MLP multiply, of the readout; None without them.
        final: the residual stream after the last block, of the readout.
        stream: the same at every token, where the readout needs it.
        weights: of tokens, with everything that scales them, where they are known at the end only.
        pool: of the attention pool, if there is one; its ``mlp`` is the pool's.
        pooled: what the norm behind the pool takes.
    """

    tokens: bool = False
    edit_z: Callable[[int, Float[Tensor, "batch head d_head"]], Float[Tensor, "batch head d_head"]] | None = None
    rows: bool = True
    reader: Reader | None = None
    layers: int = 0
    embedding: Float[Tensor, "batch d_model"] | None = None
    z: list[Float[Tensor, "batch head d_head"]] = field(default_factory=list)
    attention: list[Float[Tensor, "batch head token"]] = field(default_factory=list)
    reach: list[Float[Tensor, "batch head token"] | None] = field(default_factory=list)
    values: list[Float[Tensor, "batch token head d_head"]] = field(default_factory=list)
    mlp: list[Float[Tensor, "batch d_model"]] = field(default_factory=list)
    attention_norm: list[Float[Tensor, " batch"] | None] = field(default_factory=list)
    mlp_norm: list[Float[Tensor, " batch"] | None] = field(default_factory=list)
    final: Float[Tensor, "batch d_model"] | None = None
    stream: Float[Tensor, "batch token d_model"] | None = None
    weights: Float[Tensor, "batch pool token"] | None = None
    pool: Record | None = None
    pooled: Float[Tensor, "batch d_pool"] | None = None
    _heard: list[Heard] = field(default_factory=list)
    _room: dict[str, Tensor] = field(default_factory=dict)

    @property
    def how(self) -> Reader:
        """How tokens are reduced."""
        return CLASS_TOKEN if self.reader is None else self.reader

    def began(self, stream: Float[Tensor, "batch token d_model"]) -> None:
        """A block begins; the first one's input is the embedding."""
        if self.embedding is None:
            self.embedding = self._own(stream)

    def attended(self, heard: Heard, behind: Float[Tensor, "batch row 1"] | None = None) -> None:
        """A block's attention is done.

        Args:
            behind: what a norm behind the attention multiplies.
        """
        scale = heard.scale
        if behind is not None:
            scale = behind if scale is None else scale * behind
        z = heard.z if scale is None else heard.z * scale[..., None]
        self.z.append(self._own(z, "z", len(self.z)))
        self.attention_norm.append(None if behind is None else self.how.take(behind)[..., 0])
        if self.tokens:
            self.values.append(heard.v)
        if not self.rows:
            return
        if self.how.deferred:
            kept = (heard.q, heard.k) if heard.pattern is None else (heard.q[:, :0], heard.k[:, :0])
            self._heard.append(Heard(heard.z[:, :0], *kept, heard.v[:, :0], heard.pattern, heard.bias, scale))
            return
        row = self.how.row(heard)
        self.attention.append(self._kept(row, "attention", len(self.attention)))
        self.reach.append(None if scale is None or not self.tokens else self._scaled_row(heard, scale, row))

    def _scaled_row(self, heard: Heard, scale: Tensor, row: Tensor) -> Tensor:
        if isinstance(self.how, Average):
            weights = torch.zeros_like(scale[:, : self.how.stop, 0])
            part = slice(self.how.start, self.how.stop)
            weights[:, part] = scale[:, part, 0] / (self.how.stop - self.how.start)
            return heard.rows(weights[:, None])[:, :, 0]
        return row * scale[:, 0, None]

    def wrote(self, mlp: Float[Tensor, "batch row d_model"], behind: Float[Tensor, "batch row 1"] | None) -> None:
        """A block's MLP is done."""
        self.mlp.append(self._own(mlp, "mlp", len(self.mlp)))
        self.mlp_norm.append(None if behind is None else self.how.take(behind)[..., 0])

    def ended(self, stream: Float[Tensor, "batch token d_model"]) -> None:
        """The last block is done."""
        self.final = self._own(stream)
        if self.how.deferred:
            self.stream = stream

    def _own(self, x: Tensor, what: str = "", layer: int = 0) -> Tensor:
        """What is read of ``x``, so that the rest can be forgotten."""
        taken = self.how.take(x)
        return taken if self.how.deferred else self._kept(taken, what, layer)

    def _kept(self, value: Tensor, what: str, layer: int) -> Tensor:
        """A copy, in the room of all layers where one was asked for.

        Small values that are allocated between the large ones of a pass keep the allocator from giving those back:
        3 to 10 % of the memory of a large tower.
        """
        if not what or layer >= self.layers or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return value.clone()
        room = self._room.get(what)
        if room is None or room.shape[1:] != value.shape:
            room = self._room[what] = value.new_empty(self.layers, *value.shape)
        return room[layer].copy_(value)

    def contract(self, weights: Float[Tensor, "batch pool token"], attending: Float[Tensor, "_ pool token"]) -> None:
        """Reduce every token that was kept: prompts, which come after those of the final stream, weigh nothing.

        Args:
            weights: of tokens, with everything that scales them.
            attending: of tokens, for rows of attention.
        """
        one, count = weights.shape[1] == 1, weights.shape[-1]

        def pooled(x: Tensor) -> Tensor:
            found = torch.einsum("bpt,bt...->bp...", weights, wide(x[:, :count]))
            return found[:, 0] if one else found

        def rows(heard: Heard, own: Tensor) -> Tensor:
            found = heard.rows(own)
            return found[:, :, 0] if one else found

        assert self.embedding is not None
        assert self.stream is not None
        self.weights = weights
        self.embedding, self.final = pooled(self.embedding), pooled(self.stream)
        self.mlp = [pooled(each) for each in self.mlp]
        self.attention_norm = [None if each is None else pooled(each) for each in self.attention_norm]
        self.mlp_norm = [None if each is None else pooled(each) for each in self.mlp_norm]
        self.z = [pooled(each) if one else pooled(each).transpose(1, 2) for each in self.z]
        self.attention = [rows(each, attending) for each in self._heard]
        scaled = ((each, None if each.scale is None else each.scale[:, None, :count, 0]) for each in self._heard)
        self.reach = [
            rows(each, weights if scale is None else weights * scale) if self.tokens else None for each, scale in scaled
        ]
        self._heard = []
