"""Which tokens a readout reads, and the row of every attention pattern that belongs to them.

A readout weighs tokens. Where the weights are known beforehand (class token, plain average) the token axis is reduced
layer by layer and nothing of its size is kept. Where they follow from the final stream (each token its own norm, or
pool heads) every token is kept, and :meth:`~.recording.Record.contract` reduces all layers at the end.

Example:
    >>> from clip_decomp.models.readers import Average
    >>> Average(1, 3).take(torch.tensor([[[9.0], [2.0], [4.0]]])).tolist()
    [[3.0]]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

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


def _scores(
    q: Float[Tensor, "batch head d_head"], k: Float[Tensor, "batch token head d_head"]
) -> Float[Tensor, "batch head token"]:
    """One query of every head against all keys: keys stay where they lie, and zeros keep heads apart."""
    n_heads, d_head = q.shape[1:]
    q = wide(q) * d_head**-0.5
    apart = q[..., None] * torch.eye(n_heads, dtype=q.dtype, device=q.device)[:, None]
    return (wide(k).flatten(2) @ apart.flatten(1, 2)).transpose(1, 2)


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
        """The first token."""
        return x[:, 0]

    def row(self, heard: Heard) -> Tensor:
        """The first row."""
        if heard.pattern is not None:
            return heard.pattern[:, :, 0]
        scores = _scores(heard.q[:, 0], heard.k)
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
        q = self.take(heard.q)
        scores = _scores(q, heard.k)
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
