r"""How a tower's final residual stream becomes a representation: rows of weights over tokens, and a matrix a row.

.. math::  R = \sum_p \Big(\sum_t w^p_t\, z_t\Big)\, A_p U_p + \mathrm{constants} \;(+ \mathrm{pool\ MLP})

With norms' sigmas taken as given, :math:`w^p_t` holds 1/sigma of every token and, in a pool, the attention of pool head
p; :math:`A_p` holds the norm's centering and gain (and the pool head's values), :math:`U_p` what follows.

==================================  ================================  =========================================
readout                             rows                              where
==================================  ================================  =========================================
:class:`ClassToken`                 one, one-hot                      OpenAI, LAION, MobileCLIP-B, EVA
:class:`PooledThenNormed`           one, even                         CLIPA
:class:`NormedThenPooled`           one, 1/sigma of every token       average pooling behind the final norm
:class:`~.pooling.AttentionPooled`  one a pool head                   SigLIP, PE, CoCa
==================================  ================================  =========================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .hooked_parts import HookedNorm
from .readers import CLASS_TOKEN, Average, EveryToken, Reader, wide
from .recording import Record


class Output(ABC):
    """The linear map from what was read to the joint space."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch d_embed"]:
        """As the library computes it."""

    @property
    @abstractmethod
    def matrix(self) -> Float[Tensor, "width d_embed"]:
        """In float32 at least."""

    @property
    @abstractmethod
    def bias(self) -> Float[Tensor, " d_embed"] | None:
        """In float32 at least."""


@dataclass(frozen=True)
class ParameterOutput(Output):
    """A matrix that is a parameter of a module."""

    owner: nn.Module
    name: str = "proj"
    bias: None = None

    def __call__(self, x: Tensor) -> Tensor:
        """A product."""
        return x @ getattr(self.owner, self.name)

    @property
    def matrix(self) -> Tensor:
        """The parameter."""
        return wide(getattr(self.owner, self.name))


@dataclass(frozen=True)
class LinearOutput(Output):
    """Linear maps one after another; none at all is the identity.

    Attributes:
        like: whose dtype and device an identity takes.
    """

    maps: tuple[nn.Linear, ...]
    width: int
    like: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """One after another."""
        for each in self.maps:
            x = each(x)
        return x

    @property
    def matrix(self) -> Tensor:
        """Their product."""
        parameter = wide(next(self.like.parameters())[:0])
        found = torch.eye(self.width, dtype=parameter.dtype, device=parameter.device)
        for each in self.maps:
            found = found @ wide(each.weight).T
        return found

    @property
    def bias(self) -> Tensor | None:
        """What the biases come to."""
        found = None
        for each in self.maps:
            found = found if found is None else found @ wide(each.weight).T
            if each.bias is not None:
                found = wide(each.bias) if found is None else found + wide(each.bias)
        return found


@dataclass(frozen=True)
class ReadMap:
    """What turns the stream, pooled by the readout's rows, into contributions, but for the image's scale.

    Attributes:
        inward: for one row all there is; otherwise to each pool head's values.
        outward: from there to the joint space; None for one row.
    """

    inward: Float[Tensor, "*pool d_model d_inner"]
    outward: Float[Tensor, "pool d_inner d_embed"] | None = None

    def __call__(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_embed"]:
        """Contributions; pool heads are the axis before the last, and are summed."""
        return x @ self.inward if self.outward is None else self.by_row(x).sum(-2)

    def by_row(self, x: Float[Tensor, "*axes pool d_model"]) -> Float[Tensor, "*axes pool d_embed"]:
        """Contributions through every pool head."""
        assert self.outward is not None
        inner = torch.einsum("...pm,pmd->...pd", x, self.inward)
        return torch.einsum("...pd,pde->...pe", inner, self.outward)


@dataclass(frozen=True)
class Reading:
    """What a readout did to a batch.

    Attributes:
        scale: what multiplies every contribution of an image.
        constant: biases of the readout.
        total: weights of all tokens together, 1 where None.
        mean: mean over the read stream's entries, where it is known before the end.
        pool_mlp: contribution of the pool's MLP.
    """

    scale: Float[Tensor, " batch"]
    constant: Float[Tensor, "... d_embed"]
    total: Float[Tensor, "batch ..."] | None = None
    mean: Float[Tensor, " batch"] | None = None
    pool_mlp: Float[Tensor, "batch d_embed"] | None = None


class Readout(ABC):
    """See the module.

    Attributes:
        reader: how recording reduces tokens for it.
        rows: rows of weights over tokens.
        modules: what is hooked, by the name it has in the tower.
        describes: what it is called.
    """

    reader: Reader
    rows: int = 1
    modules: dict[str, nn.Module]
    describes: str

    @abstractmethod
    def __call__(
        self, stream: Float[Tensor, "batch token d_model"], record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Representations from the final stream."""

    @abstractmethod
    def summary(self, stream: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch width"]:
        """One vector an image, anywhere in the tower: that of the class token, or the mean of those that are averaged.

        Raises:
            ModelError: an attention pool, whose weights are known at the end only.
        """

    @abstractmethod
    def read_map(self, center: bool = True) -> ReadMap:
        """Matrices of the rows.

        Args:
            center: each component by itself.
        """

    @abstractmethod
    def reading(self, record: Record) -> Reading:
        """What the pass that filled ``record`` did; reduces what the record still keeps of every token."""


@dataclass(frozen=True)
class _OneRow(Readout):
    norm: HookedNorm
    output: Output

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The final norm."""
        return {"ln_final": self.norm}

    def read_map(self, center: bool = True) -> ReadMap:
        """Centering, gain and projection."""
        if self.norm.gain is None:
            return ReadMap(self.output.matrix)
        gain = wide(self.norm.gain)[:, None] * self.output.matrix
        return ReadMap(gain - gain.mean(0, keepdim=True) if center else gain)

    def reading(self, record: Record) -> Reading:
        """One scale an image."""
        assert record.final is not None
        final = wide(record.final)
        return Reading(1 / self.norm.sigma(final), self._constant(), mean=final.mean(-1))

    def _constant(self) -> Tensor:
        matrix, bias = self.output.matrix, self.output.bias
        beta = matrix.new_zeros(matrix.shape[1]) if self.norm.offset is None else wide(self.norm.offset) @ matrix
        return beta if bias is None else beta + bias


@dataclass(frozen=True)
class ClassToken(_OneRow):
    """``LN(z_cls) @ P``."""

    reader = CLASS_TOKEN
    describes = "class token"

    def summary(self, stream: Tensor) -> Tensor:
        """The first token."""
        return stream[:, 0]

    def __call__(self, stream: Tensor, record: Record | None = None) -> Tensor:
        """Only the first token is normed."""
        return self.output(self.norm(stream[:, :1])[:, 0])


@dataclass(frozen=True)
class PooledThenNormed(_OneRow):
    """``LN(mean_t z_t) @ P`` over tokens ``start`` to ``stop``."""

    start: int
    stop: int
    reader: Reader = field(init=False)
    describes = "average, then norm"

    def __post_init__(self):
        object.__setattr__(self, "reader", Average(self.start, self.stop))

    def summary(self, stream: Tensor) -> Tensor:
        """Their mean."""
        return stream[:, self.start : self.stop].mean(1)

    def __call__(self, stream: Tensor, record: Record | None = None) -> Tensor:
        """One norm an image."""
        return self.output(self.norm(stream[:, self.start : self.stop].mean(1, keepdim=True))[:, 0])


@dataclass(frozen=True)
class NormedThenPooled(_OneRow):
    """``mean_t LN(z_t) @ P`` over tokens ``start`` to ``stop``."""

    start: int
    stop: int
    reader = EveryToken()
    describes = "norm, then average"

    def summary(self, stream: Tensor) -> Tensor:
        """Their mean."""
        return stream[:, self.start : self.stop].mean(1)

    def __call__(self, stream: Tensor, record: Record | None = None) -> Tensor:
        """One norm a token."""
        return self.output(self.norm(stream[:, self.start : self.stop]).mean(1))

    def reading(self, record: Record) -> Reading:
        """Weights are 1/sigma of every token."""
        assert record.stream is not None
        weights = even(record.stream, self.start, self.stop)
        attending = weights[:1]
        weights = weights / self.norm.sigma(record.stream)[:, None]
        record.contract(weights, attending)
        return Reading(torch.ones_like(weights[:, 0, 0]), self._constant(), total=weights.sum((1, 2)))


def even(stream: Float[Tensor, "batch token d_model"], start: int, stop: int) -> Float[Tensor, "batch 1 token"]:
    """Even weights over some tokens, in float32 at least."""
    places = torch.arange(stream.shape[1], device=stream.device)
    chosen = (places >= start) & (places < stop)
    return (chosen.to(wide(stream[:0]).dtype) / (stop - start)).expand(len(stream), 1, -1)
