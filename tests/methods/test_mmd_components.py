"""MMD of many components, and corrections for their number."""

import logging

import pytest
import torch

from clip_decomp.errors import DataError, SettingError
from clip_decomp.methods.mmd import ComponentMMD, adjust, component_mmd, mmd, mmd_test
from clip_decomp.methods.mmd.correction import max_p


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def p_values(found: ComponentMMD) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw and adjusted ones, which must be there."""
    assert found.p_value is not None
    assert found.p_adjusted is not None
    return found.p_value, found.p_adjusted


@pytest.fixture(scope="module")
def heads():
    clean, triggered = normal(40, 2, 3, 5).float(), normal(30, 2, 3, 5, seed=1).float()
    triggered[:, 1, 2] += 1.5
    return clean, triggered


@pytest.mark.parametrize("sigma", [2.0, "median", (1.0, 4.0)])
def test_every_component_equals_the_two_sample_test(sigma, heads):
    clean, triggered = heads
    found = component_mmd(clean, triggered, sigma, "unbiased", permutations=30, seed=5)
    assert found.names == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    raw, adjusted = p_values(found)
    assert found.null is not None
    assert found.null_quantile is not None
    for layer, head in ((0, 1), (1, 2)):
        one = mmd_test(clean[:, layer, head], triggered[:, layer, head], sigma, "unbiased", 30, seed=5)
        assert (found.value[layer, head], raw[layer, head]) == (one.value, one.p_value)
        assert torch.equal(found.null[layer, head], one.null)
        assert tuple(found.sigma[layer, head].tolist()) == one.sigma
        assert found.null_quantile[layer, head] == one.null_quantile
    assert torch.equal(adjusted.flatten(), adjust(raw.flatten()))


def test_layers_without_heads_and_without_permutations(heads):
    found = component_mmd(heads[0].flatten(2), heads[1].flatten(2), progress=False)
    assert found.names == ["L0", "L1"]
    assert (found.null, found.null_quantile, found.p_value, found.p_adjusted) == (None,) * 4
    assert found.to_frame().columns.tolist() == ["component", "layer", "mmd"]
    assert found.value[1] == mmd(heads[0][:, 1].flatten(1), heads[1][:, 1].flatten(1))
    assert set(found.metrics("world/badnet/none")) == {f"world/badnet/none/mmd;component=L{layer}" for layer in (0, 1)}


def test_frame_metrics_and_html(heads):
    found = component_mmd(*heads, permutations=20)
    frame = found.to_frame().set_index("component")
    assert frame.columns.tolist() == ["layer", "head", "mmd", "null_95", "p_value", "p_adjusted"]
    assert frame.loc["L1H2", ["layer", "head", "mmd"]].tolist() == [1, 2, float(found.value[1, 2])]
    metrics = found.metrics("world/badnet/none")
    assert len(metrics) == 18
    assert metrics["world/badnet/none/mmd;component=L1H2"] == float(found.value[1, 2])
    assert metrics["world/badnet/none/mmd/p;component=L1H2"] == 1 / 21
    assert metrics["world/badnet/none/mmd/p-adjusted;component=L1H2"] == pytest.approx(6 / 21)
    assert found._repr_html_().count("<tr") == 7
    assert "p_value" in mmd_test(*normal(2, 5, 2), permutations=3)._repr_html_()


def test_the_largest_null_finds_the_planted_head_with_few_permutations(heads):
    found = component_mmd(*heads, sigma=3.0, permutations=39, correction="max")
    raw, adjusted = p_values(found)
    assert (adjusted <= 0.05).nonzero().tolist() == [[1, 2]]
    assert bool((adjusted >= raw).all())


def test_the_largest_null_keeps_the_family_wise_level():
    wrong = 0
    for seed in range(60):
        clean, triggered = normal(2, 12, 4, 3, seed=seed)
        clean[:, 1] *= 1e-3  # scales differ, and two components are one
        clean[:, 3], triggered[:, 3] = clean[:, 2], triggered[:, 2]
        triggered[:, 1] *= 1e-3
        _, adjusted = p_values(component_mmd(clean, triggered, 2.0, permutations=19, correction="max"))
        wrong += bool((adjusted <= 0.1).any())
    assert wrong <= 6 + 3 * (60 * 0.1 * 0.9) ** 0.5


def test_the_largest_null_worked_out_on_paper():
    # Splits (observed first) 3, 1, -1, -3 of spread 5^0.5; 20, 40, -60, 0; and one that never varies.
    value, null = torch.tensor([3.0, 20.0, 7.0]), torch.tensor([[1.0, -1, -3], [40, -60, 0], [7, 7, 7]])
    # Scores: 1.34 | .45, -.45, -1.34 and .53 | 1.07, -1.60, 0; largest of each split: 1.07, 0, 0.
    assert max_p(value, null, torch.full((3,), 1e-9)).tolist() == [1 / 4, 2 / 4, 1.0]


def test_holm_and_benjamini_hochberg_on_worked_examples():
    p = torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.float64)
    assert adjust(p).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust(p, "bh").tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjust(torch.tensor([0.5, 0.9])).tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(SettingError, match="holm and bh, not 'max'"):
        adjust(p, "max")
    with pytest.raises(DataError, match=r"0\.\.1, not -1 to 2"):
        adjust(torch.tensor([-1.0, 2.0]))


def test_says_when_holm_cannot_find_anything(heads, caplog):
    with caplog.at_level(logging.WARNING, "clip_decomp.methods.mmd"):
        component_mmd(*heads, permutations=118)
        assert "6 components can reach 0.05: take 119 permutations" in caplog.text
        caplog.clear()
        component_mmd(*heads, permutations=119)
        component_mmd(*heads, permutations=20, correction="max")
        assert caplog.text == ""


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        (lambda x: x.index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(torch.nan)), {}, DataError,
         "^L1H0: 1 of 30 images of triggered hold NaN, .* in row 4"),
        (lambda x: x[:1], {"estimator": "unbiased"}, DataError, "^L0H0: triggered has 1 images"),
        (lambda x: x[:, :1], {}, DataError, r"\[40, 2, 3, 5\], triggered ones \[30, 1, 3, 5\]"),
        (lambda x: x, {"correction": "sidak"}, SettingError, "holm, bh and max, not 'sidak'"),
        (lambda x: x, {"permutations": -1}, SettingError, "must not be negative, not -1"),
        (lambda x: x, {"estimator": "linear"}, SettingError, "biased and unbiased"),
    ],
)  # fmt: skip
def test_bad_components(change, settings, error, message, heads):
    with pytest.raises(error, match=message):
        component_mmd(heads[0], change(heads[1]), **settings)


def test_components_that_cannot_be_named(heads):
    with pytest.raises(DataError, match=r"\[image, layer, d\] or \[image, layer, head, d\], not \[40, 5\]"):
        component_mmd(heads[0][:, 0, 0], heads[1][:, 0, 0])
    constant = torch.ones(4, 2, 3)
    constant[:, 0] = normal(4, 3).float()
    assert p_values(component_mmd(constant, constant, permutations=3))[0].tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match=r"^L1: all 8 images are identical"):
        component_mmd(constant, constant, sigma="median")
