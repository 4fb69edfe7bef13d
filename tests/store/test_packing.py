"""Half precision with a power of two for every vector, and triangles."""

import pytest
import torch

from clip_decomp.store.packing import from_half, from_triangle, to_half, to_triangle


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1e-5, 1.0, 7e4, 1e12, 1e30])
def test_vectors_of_any_length_keep_three_digits(size):
    vectors = size * torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    found = from_half(*to_half(vectors))
    error = (found.double() - vectors.double()).norm(dim=-1) / vectors.double().norm(dim=-1)
    assert error.max() < 2**-11
    # Plain half precision does not.
    plain = (vectors.half().double() - vectors.double()).norm(dim=-1) / vectors.double().norm(dim=-1)
    assert (plain.max() < 2**-11) == (size == 1.0)


def test_each_vector_has_a_power_of_its_own():
    vectors = torch.tensor([[1e-12, 2e-12], [1e12, 3e11], [0.0, 0.0], [-1.0, 1e-6]])
    half, power = to_half(vectors)
    assert (half.dtype, power.dtype) == (torch.float16, torch.int8)
    assert len(power.unique()) == 4
    torch.testing.assert_close(from_half(half, power), vectors, rtol=5e-4, atol=0)


def test_half_precision_values_are_kept_to_the_bit():
    vectors = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).half().float()
    assert torch.equal(from_half(*to_half(vectors)), vectors)


def test_the_ends_of_float32_are_harmless():
    tiny, huge = torch.finfo(torch.float32).tiny, 0.99 * torch.finfo(torch.float32).max
    found = from_half(*to_half(torch.tensor([[tiny, 0.0], [huge, -huge]])))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1], torch.tensor([huge, -huge]), rtol=5e-4, atol=0)
    assert abs(found[0, 0]) <= 2 * tiny


@pytest.mark.parametrize("size", [1, 2, 7])
def test_triangles_hold_symmetric_matrices(size):
    square = torch.randn(3, 2, size, size, dtype=torch.float64)
    square = square + square.mT
    triangle = to_triangle(square)
    assert triangle.shape == (3, 2, size * (size + 1) // 2)
    assert torch.equal(from_triangle(triangle), square)
