"""What one forward pass of a hooked tower leaves behind for a decomposition.

A readout weighs tokens. Where the weights are known beforehand (class token, plain average) the token axis is reduced
layer by layer and nothing of its size is kept. Where they follow from the final stream (each token its own norm, or
pool heads) every token is kept, and :meth:`Record.contract` reduces all layers at the end.

Example:
    >>> from clip_decomp.models.recording import Average
    >>> Average(1, 3).take(torch.tensor([[[9.0], [2.0], [4.0]]])).tolist()
    [[3.0]]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Entries of attention patterns that are computed at a time.
_PATTERN_ENTRIES = 2**24


def wide(value: Tensor) -> Tensor:
    """In float32 at least: float64 stays, halves become float32."""
    return value if value.dtype == torch.float64 else value.float()


@dataclass(frozen=True)
class Heard:
    """One pass through one attention.

    Attributes:
        pattern: if it was computed.
        bias: what is added to scores, if anything.
        scale: what the attention's own norm over its heads multiplies every row by, if it has one.
    """

    z: Float[Tensor, "batch row head d_head"]
    q: Float[Tensor, "batch row head d_head"]
    k: Float[Tensor, "batch token head d_head"]
    v: Float[Tensor, "batch token head d_head"]
    pattern: Float[Tensor, "batch head row token"] | None = None
    bias: Float[Tensor, "_ head row token"] | None = None
    scale: Float[Tensor, "batch row 1"] | None = None

    def rows(self, weights: Float[Tensor, "_ pool row"]) -> Float[Tensor, "batch head pool token"]:
        """Weighted sums of the pattern's first rows, of some images at a time where there is no pattern yet."""
        weights, count = weights[:, None], weights.shape[-1]
        if self.pattern is not None:
            return weights @ wide(self.pattern[:, :, :count])
        q, k = wide(self.q[:, :count]).transpose(1, 2), wide(self.k).transpose(1, 2)
        step = max(1, _PATTERN_ENTRIES // max(1, q.shape[1] * q.shape[2] * k.shape[2]))
        found = []
        for start in range(0, max(1, len(q)), step):
            part = slice(start, start + step)
            scores = (q[part] * q.shape[-1] ** -0.5) @ k[part].transpose(-2, -1)
            scores = scores if self.bias is None else scores + self.bias[:, :, :count]
            found.append((weights if len(weights) == 1 else weights[part]) @ scores.softmax(-1))
        return torch.cat(found)


class Reader(ABC):
    """How the token axis is reduced while recording.

    Attributes:
        last_rows: rows of the last block that are read, None for all.
        deferred: whether the reduction waits for the final stream.
    """

    last_rows: int | None = None
    deferred: bool = False

    @abstractmethod
    def take(self, x: Float[Tensor, "batch token ..."]) -> Float[Tensor, "batch ..."]:
        """What is kept of a value at every token."""

    @abstractmethod
    def row(self, heard: Heard) -> Float[Tensor, "batch head token"]:
        """The readout row of every head's pattern."""


@dataclass(frozen=True)
class FirstToken(Reader):
    """The class token, which is token 0."""

    last_rows: int | None = 1

    def take(self, x: Tensor) -> Tensor:
        """The first token; a copy, so that all the others can be forgotten."""
        return x[:, 0].clone()

    def row(self, heard: Heard) -> Tensor:
        """The first row."""
        if heard.pattern is not None:
            return heard.pattern[:, :, 0]
        q, k = heard.q, heard.k
        scores = torch.einsum("bhd,bkhd->bhk", wide(q[:, 0]), wide(k)) * q.shape[-1] ** -0.5
        return (scores if heard.bias is None else scores + heard.bias[:, :, 0]).softmax(-1)


#: One is enough, and a compiled graph cannot make one.
CLASS_TOKEN = FirstToken()


@dataclass(frozen=True)
class ChosenToken(Reader):
    """One token of each input, such as the end of a text."""

    places: Int[Tensor, " batch"]

    def take(self, x: Tensor) -> Tensor:
        """The chosen ones."""
        return x[torch.arange(len(x), device=x.device), self.places]

    def row(self, heard: Heard) -> Tensor:
        """Their rows."""
        if heard.pattern is not None:
            return self.take(heard.pattern.transpose(1, 2))
        q = wide(self.take(heard.q))
        scores = torch.einsum("bhd,bkhd->bhk", q, wide(heard.k)) * q.shape[-1] ** -0.5
        if heard.bias is not None:
            scores = scores + self.take(heard.bias.expand(len(q), -1, -1, -1).transpose(1, 2))
        return scores.softmax(-1)


@dataclass(frozen=True)
class Average(Reader):
    """The mean over tokens ``start`` to ``stop``."""

    start: int
    stop: int

    def take(self, x: Tensor) -> Tensor:
        """The mean, in float32 at least."""
        return wide(x[:, self.start : self.stop]).mean(1)

    def row(self, heard: Heard) -> Tensor:
        """The mean row."""
        weights = torch.zeros(1, 1, self.stop, device=heard.q.device, dtype=wide(heard.q[:0]).dtype)
        weights[..., self.start :] = 1 / (self.stop - self.start)
        return heard.rows(weights)[:, :, 0]


class EveryToken(Reader):
    """All tokens are kept."""

    deferred = True

    def take(self, x: Tensor) -> Tensor:
        """All of it."""
        return x

    def row(self, heard: Heard) -> Tensor:
        """Not known yet."""
        raise NotImplementedError


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

    @property
    def how(self) -> Reader:
        """How tokens are reduced."""
        return CLASS_TOKEN if self.reader is None else self.reader

    def began(self, stream: Float[Tensor, "batch token d_model"]) -> None:
        """A block begins; the first one's input is the embedding."""
        if self.embedding is None:
            self.embedding = self.how.take(stream)

    def attended(self, heard: Heard, behind: Float[Tensor, "batch row 1"] | None = None) -> None:
        """A block's attention is done.

        Args:
            behind: what a norm behind the attention multiplies.
        """
        scale = heard.scale
        if behind is not None:
            scale = behind if scale is None else scale * behind
        z = heard.z if scale is None else heard.z * scale[..., None]
        self.z.append(self.how.take(z))
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
        self.attention.append(row)
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
        self.mlp.append(self.how.take(mlp))
        self.mlp_norm.append(None if behind is None else self.how.take(behind)[..., 0])

    def ended(self, stream: Float[Tensor, "batch token d_model"]) -> None:
        """The last block is done."""
        self.final = self.how.take(stream)
        if self.how.deferred:
            self.stream = stream

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
