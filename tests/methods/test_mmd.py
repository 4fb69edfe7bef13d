"""MMD: the reference's numbers, closed forms, brute force, and tests that keep their level."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.mmd import mmd, mmd_test
from clip_decomp.methods.mmd.kernel import kernel_sums, pool
from clip_decomp.methods.mmd.statistic import splits


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute(a, b, sigmas=(10.0,), estimator="biased"):
    """The definition, with every kernel value written out."""
    total = 0.0
    for sigma in sigmas:

        def kernel(x, y, sigma=sigma):
            return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / (2 * sigma**2))

        same = [kernel(x, x) for x in (a, b)]
        if estimator == "unbiased":
            means = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in same]
        else:
            means = [k.mean() for k in same]
        total += sum(means) - 2 * kernel(a, b).mean()
    return 1000 * total / len(sigmas)


# --- known answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "name"), [(1, "value"), (4, "value_inputs_times_4")])
def test_agrees_with_the_reference_code(factor, name, golden):
    samples = load_file(golden / "mmd.safetensors")
    numbers = json.loads((golden / "mmd.json").read_text())
    clean, triggered = factor * samples["clean"], factor * samples["triggered"]
    assert mmd(clean, triggered, numbers["sigma"], scale=numbers["scale"]) == pytest.approx(numbers[name], rel=1e-5)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_two_gaussians_have_the_closed_form(estimator):
    d, sigma, shift, spreads = 5, 2.0, 0.7, (1.0, 1.4)

    def expected(i, j, distance):
        width = sigma**2 + spreads[i] ** 2 + spreads[j] ** 2
        return (sigma**2 / width) ** (d / 2) * np.exp(-(distance**2) / (2 * width))

    inside = expected(0, 0, 0), expected(1, 1, 0)
    truth = sum(inside) - 2 * expected(0, 1, shift * d**0.5)
    n, m = 800, 600
    if estimator == "biased":
        truth += (1 - inside[0]) / n + (1 - inside[1]) / m
    values = []
    for seed in range(12):
        a, b = normal(n, d, seed=2 * seed), shift + spreads[1] * normal(m, d, seed=2 * seed + 1)
        values.append(mmd(a, b, sigma, estimator, scale=1.0))
    error = np.std(values, ddof=1) / len(values) ** 0.5
    assert error < 0.05 * truth
    assert abs(np.mean(values) - truth) < 3 * error


def test_unbiased_is_zero_on_average_for_equal_distributions_and_biased_is_not():
    values = {"biased": [], "unbiased": []}
    for seed in range(40):
        a, b = normal(2, 40, 6, seed=seed)
        for estimator, found in values.items():
            found.append(mmd(a, b, 3.0, estimator))
    error = np.std(values["unbiased"], ddof=1) / 40**0.5
    assert abs(np.mean(values["unbiased"])) < 2.5 * error
    assert min(values["unbiased"]) < 0 < min(values["biased"])


def test_tiny_differences_survive_a_wide_kernel():
    # k(x, y) is within 1e-13 of 1 here, so 1 - k in float64 has no digits left. At this width
    # MMD^2 = |difference of means|^2 / sigma^2.
    a, b = 1e-3 * normal(2, 30, 4)
    b = b + 1e-4
    assert mmd(a, b, 1e4) == pytest.approx(1000 * float((a.mean(0) - b.mean(0)).square().sum()) / 1e8, rel=1e-9)


# --- against brute force, and what must not matter --------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("sigma", [0.8, 10.0, (0.5, 1.0, 4.0), "median"])
def test_equals_brute_force(sigma, estimator):
    a, b = normal(23, 4).numpy(), 0.5 + normal(31, 4, seed=1).numpy()
    if sigma == "median":
        both = np.concatenate([a, b])
        distances = [np.linalg.norm(both[i] - both[j]) for i in range(54) for j in range(i)]
        sigmas = (np.median(distances),)
    else:
        sigmas = np.atleast_1d(sigma)
    expected = brute(a, b, sigmas, estimator)
    assert mmd(a, b, sigma, estimator) == pytest.approx(expected, rel=1e-10)
    assert mmd(torch.tensor(a), torch.tensor(b), sigma, estimator) == pytest.approx(expected, rel=1e-10)
    assert mmd(a.astype(np.float32), b, sigma, estimator) == pytest.approx(expected, rel=1e-6)


def test_the_median_of_many_samples_is_taken_over_some_and_always_the_same():
    a, b = normal(1300, 3).float(), normal(1300, 3, seed=1).float()
    exact = float(torch.pdist(torch.cat([a, b])).median())
    first, second = (mmd_test(a, b, "median", permutations=1) for _ in range(2))
    assert first.sigma[0] == pytest.approx(exact, rel=0.01)
    assert first.sigma == second.sigma


@pytest.mark.parametrize("sigma", [3.0, "median"])
def test_rotation_and_shift_change_nothing(sigma):
    a, b = normal(50, 8), normal(40, 8, seed=1) * 1.3
    rotation = torch.linalg.qr(normal(8, 8, seed=2)).Q
    assert mmd(a @ rotation + 100, b @ rotation + 100, sigma) == pytest.approx(mmd(a, b, sigma), rel=1e-9)


def test_a_head_in_the_joint_space_equals_the_head_in_its_own():
    a, b = normal(150, 6).float(), normal(150, 6, seed=1).float() * 1.2
    basis = torch.linalg.qr(normal(64, 6, seed=2).float()).Q.T
    assert pool(a @ basis, b @ basis, 1).shape == (300, 6)  # the empty directions are dropped
    assert mmd(a @ basis, b @ basis, 3.0) == pytest.approx(mmd(a, b, 3.0), rel=1e-5)
    assert mmd(a @ basis, b @ basis, 3.0) == pytest.approx(brute((a @ basis).numpy(), (b @ basis).numpy(), [3.0]), 1e-4)


def test_directions_with_any_content_are_kept():
    faint = normal(300, 8)
    faint[:, 5] *= 1e-5
    assert pool(faint[:150], faint[150:], 1).shape == (300, 8)


@pytest.mark.parametrize("block", [1, 7, 30, 512])
def test_block_size_does_not_matter(block):
    samples, groups = normal(30, 4), splits(12, 18, 9, seed=0)
    kernel = torch.expm1(-torch.cdist(samples, samples).square() / 8).fill_diagonal_(0)
    member = groups.double()
    found = kernel_sums(samples, groups, (2.0,), block)
    torch.testing.assert_close(found.rows, kernel.sum(1), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.within, (member * (kernel @ member)).sum(0), rtol=1e-11, atol=1e-11)


def test_inputs_stay_as_they_are_and_need_no_gradient():
    a, b = normal(20, 3).requires_grad_(), normal(20, 3, seed=1)
    before = a.detach().clone(), b.clone()
    assert mmd_test(a, b, 1.0, permutations=9).value > 0
    assert torch.equal(a.detach(), before[0])
    assert torch.equal(b, before[1])
    frozen = b.numpy().copy()
    frozen.setflags(write=False)
    assert mmd(a, frozen, 1.0) == mmd(a, b, 1.0)


def test_the_kernel_is_never_held_as_a_whole():
    code = (
        "import resource, torch; from clip_decomp.methods.mmd import mmd_test; a, b = torch.randn(2, 3000, 8);"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024; mmd_test(a[:600], b[:600]);"
        "before = peak(); mmd_test(a, b); print(peak() - before)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert float(found.stdout) < 100  # MB; 6000 x 6000 numbers take 288


# --- the permutation test ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_all_permutations_at_once_equal_a_loop(estimator, paired):
    a, b = normal(14, 3), 0.4 + normal(14 if paired else 9, 3, seed=1)
    both, found = torch.cat([a, b]).numpy(), mmd_test(a, b, 1.5, estimator, permutations=25, seed=3, paired=paired)
    groups = splits(len(a), len(b), 25, seed=3, paired=paired).numpy()
    loop = [brute(both[member], both[~member], (1.5,), estimator) for member in groups.T]
    assert found.value == pytest.approx(loop[0], rel=1e-9)
    assert found.null.tolist() == pytest.approx(loop[1:], rel=1e-9)
    assert found.p_value == (1 + sum(value >= loop[0] for value in loop[1:])) / 26
    assert (found.null_mean, found.null_quantile) == pytest.approx((np.mean(loop[1:]), np.quantile(loop[1:], 0.95)))


def test_splits_keep_sizes_and_pairs():
    mixed, paired = splits(12, 8, 50, seed=0), splits(10, 10, 50, seed=0, paired=True)
    assert mixed.sum(0).tolist() == [12] * 51
    assert mixed[:12, 0].all()
    assert bool((paired[:10] ^ paired[10:]).all())
    assert len({tuple(column) for column in mixed.T.tolist()}) == 51
    assert torch.equal(mixed, splits(12, 8, 50, seed=0))
    assert not torch.equal(mixed, splits(12, 8, 50, seed=1))


def test_p_values_are_uniform_without_and_smallest_with_a_difference():
    p_values = [mmd_test(*normal(2, 15, 3, seed=seed), 2.0, permutations=39, seed=seed).p_value for seed in range(80)]
    assert abs(np.mean(p_values) - 0.5) < 3 * (1 / 12 / 80) ** 0.5
    assert np.mean(np.array(p_values) <= 0.25) == pytest.approx(0.25, abs=3 * (0.25 * 0.75 / 80) ** 0.5)
    shifted = mmd_test(normal(15, 3), 3 + normal(15, 3, seed=1), 2.0, permutations=39)
    assert shifted.p_value == 1 / 40
    assert shifted.value > shifted.null_quantile > shifted.null_mean > 0


def test_partners_show_a_difference_that_mixing_hides():
    pictures = 5 * normal(60, 3)
    triggered = pictures + 0.3 + 0.1 * normal(60, 3, seed=1)
    assert mmd_test(pictures, triggered, 5.0, permutations=99).p_value > 0.2
    assert mmd_test(pictures, triggered, 5.0, permutations=99, paired=True).p_value == 0.01


def test_constant_samples_are_no_evidence():
    same = torch.full((20, 3), 0.1)
    found = mmd_test(same, same[:15], permutations=49)
    assert (found.value, found.p_value) == (0.0, 1.0)
    assert mmd_test(normal(1, 3), normal(1, 3, seed=1), permutations=9).p_value == 1.0  # swapping is all one can do


# --- bad input --------------------------------------------------------------------------------------------------------

A, B = normal(6, 3), normal(5, 3, seed=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mmd(A[:0], B), DataError, "a has 0 images: .* at least 1 on"),
        (lambda: mmd(A, B[:1], estimator="unbiased"), DataError, "b has 1 images: .* at least 2 on"),
        (lambda: mmd(A, B[:, :2]), DataError, "a has width 3 and b width 2"),
        (lambda: mmd(A[0], B), DataError, r"a must be a matrix \[image, d\], not \[3\]"),
        (lambda: mmd(A, B[:, :0]), DataError, r"b must be a matrix \[image, d\], not \[5, 0\]"),
        (lambda: mmd(A, B.index_fill(0, torch.tensor([3]), torch.nan)), DataError, "1 of 5 images of b .* in row 3"),
        (lambda: mmd(A.clone().fill_(torch.inf), B), DataError, "6 of 6 images of a hold .* in row 0"),
        (lambda: mmd(1e200 * A, B), DataError, "beyond 1e.150"),
        (lambda: mmd(A, B, 0), SettingError, "above zero and finite, not 0"),
        (lambda: mmd(A, B, (1.0, -2.0)), SettingError, r"above zero and finite, not \(1.0, -2.0\)"),
        (lambda: mmd(A, B, ()), SettingError, r"above zero and finite, not \(\)"),
        (lambda: mmd(A, B, torch.nan), SettingError, "above zero and finite, not nan"),
        (lambda: mmd(A, B, "mean"), SettingError, "or 'median', not 'mean'"),
        (lambda: mmd(A, B, estimator="linear"), SettingError, "biased and unbiased, not 'linear'"),
        (lambda: mmd(A[:1].repeat(4, 1), A[:1], "median"), DataError, "^all 5 images are identical"),
        (lambda: mmd(A[:1].repeat(9, 1), B[:1], "median"), DataError, "more than half of all pairs"),
        (lambda: mmd_test(A, B, permutations=0), SettingError, "at least one permutation, not 0"),
        (lambda: mmd_test(A, B, paired=True), SettingError, "one length, not 6 and 5"),
    ],
)  # fmt: skip
def test_bad_samples_and_settings(call, error, message):
    with pytest.raises(error, match=message):
        call()
