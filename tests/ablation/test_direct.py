"""Direct effects: the reference code's numbers, and a case worked out on paper."""

import json

import pytest
import torch
from safetensors.torch import load_file

from clip_decomp.ablation import direct_ablation, head_ablation
from clip_decomp.contributions import Contributions, Means
from clip_decomp.convention import PAPER
from clip_decomp.errors import DataError, SettingError


def percent(shares):
    return [round(100 * share, 6) for share in shares]


# --- the reference code's numbers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(golden):
    found = load_file(golden / "ablation.safetensors")

    def contributions(side):
        # Of the early layers the file keeps the sum over heads: sweeps cannot tell.
        early = found[f"{side}.early"][:, :, None].expand(-1, -1, 12, -1) / 12
        heads = torch.cat([early, found[f"{side}.last"][:, None]], dim=1)
        mlps = found[f"{side}.mlps"]
        nothing = torch.zeros_like(mlps[:, 0])
        return Contributions.from_heads(heads, mlps[:, 1:], mlps[:, 0], nothing, found["labels"], PAPER)

    means = Means(found["val.heads"], found["val.mlps"][1:], found["val.mlps"][0])
    numbers = json.loads((golden / "ablation.json").read_text())
    return contributions("clean"), contributions("triggered"), means, found["classifier"].T, numbers


@pytest.mark.parametrize(("row", "scheme"), [(0, "forward"), (1, "backward"), (2, "separate")])
@pytest.mark.parametrize("over", ["heads", "mlps"])
def test_sweeps_agree_with_the_reference_code(over, row, scheme, reference):
    clean, triggered, means, vectors, numbers = reference
    line = numbers[over][row]
    asr, accuracy = (json.loads(line.split(f"{name}=")[1].split("]")[0] + "]") for name in ("asr", "acc"))
    sweep = direct_ablation(clean, triggered, means, vectors, numbers["target"], over, scheme)
    assert percent(sweep.attack_success_rate) == pytest.approx(asr, abs=1e-4)
    assert percent(sweep.clean_accuracy) == pytest.approx(accuracy, abs=1e-4)
    assert sweep.layers == ((0, 1, 2) if over == "heads" else (-1, 0, 1, 2))
    assert percent(sweep.baseline[:2]) == pytest.approx(
        [numbers["baseline"]["cacc"], numbers["baseline"]["asr"]], abs=1e-4
    )
    assert (sweep.count, sweep.triggered_count) == (500, 500)


# --- a case worked out on paper ---------------------------------------------------------------------------------------
#
# Three classes with the unit vectors as class vectors; class 0 is the target. Of the clean picture of class c
#   L0H0 writes 2 e_c, L0H1 nothing, L1H0 nothing, L1H1 nothing, mlp 0 writes 1 e_c, mlp 1 nothing.
# A triggered picture's L1H1 writes 5 e_0 as well, and its mlp 1 writes 0.5 e_0.
# The means are 0.1 e_1 for L0H0 and zero for everything else.


@pytest.fixture
def case():
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    unit = torch.eye(3)
    heads, mlps, nothing = torch.zeros(6, 2, 2, 3), torch.zeros(6, 2, 3), torch.zeros(6, 3)
    heads[:, 0, 0] = 2 * unit[labels]
    mlps[:, 0] = unit[labels]
    bad_heads, bad_mlps = heads.clone(), mlps.clone()
    bad_heads[:, 1, 1] = 5 * unit[0]
    bad_mlps[:, 1] = 0.5 * unit[0]
    means = Means(torch.zeros(2, 2, 3), torch.zeros(2, 3), torch.zeros(3))
    means.heads[0, 0] = 0.1 * unit[1]
    clean = Contributions.from_heads(heads, mlps, nothing, nothing, labels)
    triggered = Contributions.from_heads(bad_heads, bad_mlps, nothing, nothing, labels)
    return clean, triggered, means, unit


EXPECTED = {
    # component, scheme: clean accuracy, attack success rate, poisoned accuracy of each layer
    # Heads 0 alone: mlp 0 still names the class; 5.5 e_0 wins over it.  Heads 1 alone: 3 e_c wins over 0.5 e_0.
    ("heads", "separate"): ([1, 1], [1, 0], [1 / 6, 1]),
    # Both: 0.1 e_1 + e_c on clean pictures, and 0.5 e_0 more on triggered ones.
    ("heads", "forward"): ([1, 1], [1, 0], [1 / 6, 1]),
    ("heads", "backward"): ([1, 1], [0, 0], [1, 1]),
    ("mlps", "separate"): ([1, 1], [1, 1], [1 / 6, 1 / 6]),
    ("mlps", "forward"): ([1, 1], [1, 1], [1 / 6, 1 / 6]),
    ("mlps", "backward"): ([1, 1], [1, 1], [1 / 6, 1 / 6]),
    # Layer 0 gone: 0.1 e_1 is all that is left of clean pictures, and 0.1 e_1 + 5.5 e_0 of triggered ones.
    ("layers", "separate"): ([2 / 6, 1], [1, 0], [1 / 6, 1]),
    # Everything gone: always class 1.
    ("layers", "forward"): ([2 / 6, 2 / 6], [1, 0], [1 / 6, 2 / 6]),
    ("layers", "backward"): ([2 / 6, 1], [0, 0], [2 / 6, 1]),
}


@pytest.mark.parametrize(("over", "scheme"), EXPECTED)
def test_direct_effects_worked_out_on_paper(over, scheme, case):
    sweep = direct_ablation(*case, target=0, over=over, scheme=scheme)
    accuracy, success, poisoned = EXPECTED[over, scheme]
    assert sweep.clean_accuracy == pytest.approx(accuracy)
    assert sweep.attack_success_rate == pytest.approx(success)
    assert sweep.poisoned_accuracy == pytest.approx(poisoned)
    assert sweep.baseline == pytest.approx((1, 1, 1 / 6))
    assert (sweep.over, sweep.scheme, sweep.effect, sweep.layers) == (over, scheme, "direct", (0, 1))
    # The picture of the target class does not count.
    assert (sweep.count, sweep.triggered_count) == (6, 5)


def test_every_head_alone_worked_out_on_paper(case):
    found = head_ablation(*case, target=0)
    assert torch.equal(found.clean_accuracy, torch.ones(2, 2))
    torch.testing.assert_close(found.attack_success_rate, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    assert found.baseline == (1, 1)
    # Gaps along e_0 - (e_1 + e_2) / 2, over triggered pictures of classes 1, 1, 2, 2, 2. Norms of the representations:
    # 8.5 once, sqrt(3^2 + 5.5^2) five times.
    size = (8.5 + 5 * (3**2 + 5.5**2) ** 0.5) / 6
    torch.testing.assert_close(found.gap, torch.tensor([[-1 + 0.05, 0.0], [0.0, 5.0]]) / size)
    torch.testing.assert_close(found.mlp_gap, torch.tensor([-0.5, 0.5]) / size)


def test_the_embedding_is_entry_zero_of_the_mlps_in_the_papers_convention(case):
    clean, triggered, means, vectors = case
    clean, triggered = (
        Contributions.from_heads(c.heads, c.mlps, c.embedding + 10 * vectors[2], c.bias, c.labels, PAPER)
        for c in (clean, triggered)
    )
    sweep = direct_ablation(clean, triggered, means, vectors, 0, "mlps", "separate")
    assert sweep.layers == (-1, 0, 1)
    # The embedding always says class 2; taking it out brings the classes back.
    assert sweep.clean_accuracy == pytest.approx((1, 1 / 2, 1 / 2))
    assert sweep.attack_success_rate == pytest.approx((1, 0, 0))
    # This convention counts the target's own pictures.
    assert sweep.triggered_count == 6
    assert direct_ablation(clean, triggered, means, vectors, 0, "heads").layers == (0, 1)


def test_replacing_components_by_themselves_changes_nothing(case):
    clean, triggered, _, vectors = case
    one, bad = (c[3:4] for c in case[:2])
    for over in ("heads", "mlps", "layers"):
        for scheme in ("forward", "backward", "separate"):
            kept = direct_ablation(one, one, one.means(), vectors, 0, over, scheme)
            assert set(kept.clean_accuracy) == {kept.baseline[0]} == {1}
            kept = direct_ablation(one, bad, bad.means(), vectors, 0, over, scheme)
            assert set(kept.attack_success_rate) == {kept.baseline[1]} == {1}
    assert len(clean) == len(triggered) == 6


def test_forward_meets_backward(case):
    clean, triggered, means, vectors = case
    for over in ("heads", "mlps", "layers"):
        forward, backward, separate = (
            direct_ablation(clean, triggered, means, vectors, 0, over, s) for s in ("forward", "backward", "separate")
        )
        assert forward.clean_accuracy[-1] == backward.clean_accuracy[0]
        assert forward.attack_success_rate[0] == separate.attack_success_rate[0]
        assert backward.attack_success_rate[-1] == separate.attack_success_rate[-1]


def test_results_become_tables(case):
    sweep = direct_ablation(*case, target=0)
    frame = sweep.to_frame()
    assert list(frame.columns) == ["layer", "clean_accuracy", "attack_success_rate", "poisoned_accuracy"]
    assert frame["attack_success_rate"].tolist() == list(sweep.attack_success_rate)
    assert "<table" in sweep._repr_html_()
    assert "0.167" in sweep._repr_html_()


def test_wrong_settings_are_refused(case):
    clean, triggered, means, vectors = case
    with pytest.raises(SettingError, match="heads, mlps or layers, not 'attention'"):
        direct_ablation(*case, target=0, over="attention")
    with pytest.raises(SettingError, match="forward, backward and separate, not 'sideways'"):
        direct_ablation(*case, target=0, scheme="sideways")
    for target in (3, -1):
        with pytest.raises(SettingError, match=f"Target class {target} is out of range for 3 classes"):
            direct_ablation(*case, target=target)
    with pytest.raises(SettingError, match="out of range"):
        head_ablation(*case, target=3)
    other = Contributions.from_heads(clean.heads, clean.mlps, clean.embedding, clean.bias, clean.labels, PAPER)
    with pytest.raises(SettingError, match="two different conventions"):
        direct_ablation(other, triggered, means, vectors, 0)
    only_target = clean[:1]
    with pytest.raises(DataError, match="no images"):
        direct_ablation(only_target, only_target, means, vectors, 0)
