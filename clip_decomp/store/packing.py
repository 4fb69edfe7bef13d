r"""Numbers in fewer bytes: half precision with a power of two for every vector, and triangles of symmetric matrices.

A vector is multiplied by the power of two that takes its largest entry to :math:`[2^{14}, 2^{15})`, which is exact, and
then rounded. Half precision's relative error of :math:`2^{-11}` holds for entries down to :math:`2^{-29}` of the
largest; what smaller ones lose does not show in the vector.

Example:
    >>> tiny = torch.tensor([[3e-12, -1e-12], [7e9, 1.0]])
    >>> torch.allclose(from_half(*to_half(tiny)), tiny, rtol=5e-4, atol=0)
    True
    >>> square = torch.tensor([[1.0, 2.0], [2.0, 5.0]])
    >>> torch.equal(from_triangle(to_triangle(square)), square)
    True
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float16, Float32, Int8
from torch import Tensor

_TOP = 15
#: Powers of two that float32 has as normal numbers, both they and their inverses.
_RANGE = 126


def to_half(
    vectors: Float[Tensor, "*vector entry"],
) -> tuple[Float16[Tensor, "*vector entry"], Int8[Tensor, " *vector"]]:
    """Half-precision entries, and the power of two that every vector was divided by. Entries must be finite."""
    vectors = vectors.float()
    power = (torch.frexp(vectors.abs().amax(-1)).exponent - _TOP).clamp(-_RANGE, _RANGE)
    return (vectors * _power_of_two(-power)[..., None]).half(), power.to(torch.int8)


def from_half(
    half: Float16[Tensor, "*vector entry"], power: Int8[Tensor, " *vector"]
) -> Float32[Tensor, "*vector entry"]:
    """What :func:`to_half` was given, but for rounding."""
    return half.float() * _power_of_two(power)[..., None]


def _power_of_two(power: Tensor) -> Tensor:
    """Made from its bits: exact, which ``2 ** power`` need not be."""
    return ((power.int() + 127) << 23).view(torch.float32)


def to_triangle(square: Float[Tensor, "*matrix n n"]) -> Float[Tensor, "*matrix entry"]:
    """The upper triangle of symmetric matrices, row by row."""
    rows, columns = torch.triu_indices(*square.shape[-2:], device=square.device)
    return square[..., rows, columns]


def from_triangle(triangle: Float[Tensor, "*matrix entry"]) -> Float[Tensor, "*matrix n n"]:
    """The symmetric matrices of :func:`to_triangle`."""
    size = (math.isqrt(8 * triangle.shape[-1] + 1) - 1) // 2
    rows, columns = torch.triu_indices(size, size, device=triangle.device)
    square = triangle.new_empty(*triangle.shape[:-1], size, size)
    square[..., rows, columns] = triangle
    square[..., columns, rows] = triangle
    return square
