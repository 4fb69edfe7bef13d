import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from clip_decomp import ablation
from clip_decomp.ablation import (
    activation_means,
    direct_ablation,
    head_ablation,
    mean_ablation,
    total_ablation,
)
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import Contributions, Means, collect, pictures
from clip_decomp.convention import EXACT, PAPER
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, SettingError
from clip_decomp.zeroshot import class_vectors, predict


@dataclass(frozen=True)
class Nothing:
    """A trigger that changes nothing."""

    name: ClassVar[str] = "nothing"

    def __call__(self, images, numbers):
        return images.clone()

    def settings(self):
        return {"name": self.name}


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
        return Contributions(heads, mlps[:, 1:], mlps[:, 0], nothing, found["labels"], PAPER)

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
    clean = Contributions(heads, mlps, nothing, nothing, labels)
    triggered = Contributions(bad_heads, bad_mlps, nothing, nothing, labels)
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
        Contributions(c.heads, c.mlps, c.embedding + 10 * vectors[2], c.bias, c.labels, PAPER)
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
    one, bad = (
        Contributions(c.heads[3:4], c.mlps[3:4], c.embedding[3:4], c.bias[3:4], c.labels[3:4]) for c in case[:2]
    )
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
    other = Contributions(clean.heads, clean.mlps, clean.embedding, clean.bias, clean.labels, PAPER)
    with pytest.raises(SettingError, match="two different conventions"):
        direct_ablation(other, triggered, means, vectors, 0)
    only_target = Contributions(*(x[:1] for x in (clean.heads, clean.mlps, clean.embedding, clean.bias, clean.labels)))
    with pytest.raises(DataError, match="no images"):
        direct_ablation(only_target, only_target, means, vectors, 0)


# --- contributions of a data set --------------------------------------------------------------------------------------


def test_contributions_of_a_data_set_are_those_of_its_pictures(model, toy):
    trigger = BadNet(share=0.25)
    for rule, which in (("exact", None), ("paper", trigger)):
        found = collect(model, toy, which, rule, batch_size=7)
        pixels, labels = toy.load()
        pixels = pixels.float() / 255
        pixels = pixels if which is None else which(pixels, torch.arange(24))
        dec = model.decompose(model.normalize(pixels), convention=rule)
        for part in ("heads", "mlps", "embedding", "bias"):
            torch.testing.assert_close(getattr(found, part), getattr(dec, part).detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(found.labels, labels)
        assert found.convention.name == rule
        torch.testing.assert_close(found.sum(), dec.sum().detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.means().heads, found.heads.mean(0))
        torch.testing.assert_close(found.means().mlps, found.mlps.mean(0))
        torch.testing.assert_close(found.means().embedding, found.embedding.mean(0))


def test_triggers_know_pictures_by_their_place_in_the_data_whatever_the_batches(toy):
    trigger = BadNet(share=0.25, seed=3)
    whole = torch.cat([pixels for pixels, _, _ in pictures(toy, trigger, 24)])
    assert torch.equal(torch.cat([pixels for pixels, _, _ in pictures(toy, trigger, 5)]), whole)
    part = toy.subset(torch.tensor([4, 9, 21]))
    ((pixels, labels, indices),) = pictures(part, trigger)
    assert torch.equal(pixels, whole[[4, 9, 21]])
    assert indices.tolist() == [4, 9, 21]
    assert labels.tolist() == [0, 1, 1]


# --- total effects ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def patched_by_hand(model, pixels, means_of, layers, over):
    """Representations when open_clip's own attention and MLP modules return their mean over clean pictures."""
    tower = model.clip.visual
    blocks = tower.transformer.resblocks
    seen = {}

    def remember(key):
        return lambda module, args, output: seen.update({key: output[0] if isinstance(output, tuple) else output})

    handles = [b.attn.register_forward_hook(remember(("heads", k))) for k, b in enumerate(blocks)]
    handles += [b.mlp.register_forward_hook(remember(("mlps", k))) for k, b in enumerate(blocks)]
    tower(model.normalize(means_of))
    for handle in handles:
        handle.remove()
    # Attention is linear in z, so the mean of its output is its output at the mean of z.
    means = {key: value.mean(0) for key, value in seen.items()}
    handles = []
    for layer in layers:
        if over in ("heads", "layers"):
            mean = means["heads", layer]
            hook = lambda module, args, output, mean=mean: (mean.expand_as(output[0]), None)  # noqa: E731
            handles.append(blocks[layer].attn.register_forward_hook(hook))
        if over in ("mlps", "layers"):
            mean = means["mlps", layer]
            hook = lambda module, args, output, mean=mean: mean.expand_as(output)  # noqa: E731
            handles.append(blocks[layer].mlp.register_forward_hook(hook))
    features = tower(model.normalize(pixels))
    for handle in handles:
        handle.remove()
    return features


SCHEMES = {
    "forward": [[0], [0, 1], [0, 1, 2]],
    "backward": [[0, 1, 2], [1, 2], [2]],
    "separate": [[0], [1], [2]],
}


@pytest.fixture
def many():
    """Pictures of ten classes, so that a change of features shows in the rates; and held-out ones."""
    generator = torch.Generator().manual_seed(5)
    names = tuple(f"class {k}" for k in range(10))

    def draw(count):
        coarse = torch.rand(count, 3, 4, 4, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, size=32).mul(255).to(torch.uint8)
        return ImageSet("many", names, torch.arange(count) % 10, TensorSource(pixels), target="class 3")

    return draw(60), draw(20)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("over", ["heads", "mlps", "layers"])
def test_total_effects_are_what_patching_by_hand_gives(over, scheme, model, many):
    data, held_out = many
    trigger = BadNet(share=0.5, seed=1)
    # Vectors near which the clean features lie, so that predictions are not all the same.
    pixels, labels = data.load()
    clean = pixels.float() / 255
    vectors = model.encode_image(model.normalize(clean[:10])).detach()
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=1)
    means = activation_means(model, held_out, batch_size=6)
    sweep = total_ablation(model, data, trigger, means, vectors, 3, over, scheme, batch_size=16)

    bad, base = trigger(clean, torch.arange(60)), held_out.load()[0].float() / 255
    foreign = labels != 3
    for k, layers in enumerate([[], *SCHEMES[scheme]]):
        guess, bad_guess = (predict(patched_by_hand(model, each, base, layers, over), vectors) for each in (clean, bad))
        expected = (
            (guess == labels).float().mean().item(),
            (bad_guess[foreign] == 3).float().mean().item(),
            (bad_guess == labels).float().mean().item(),
        )
        found = (
            sweep.baseline
            if k == 0
            else (sweep.clean_accuracy[k - 1], sweep.attack_success_rate[k - 1], sweep.poisoned_accuracy[k - 1])
        )
        assert found == pytest.approx(expected, abs=1e-6)
    assert len({sweep.baseline[0], *sweep.clean_accuracy}) > 1  # patching did something
    assert (sweep.effect, sweep.layers, sweep.count, sweep.triggered_count) == ("total", (0, 1, 2), 60, 54)
    assert not model.visual.list_hooks()


def test_activation_means_are_means_of_activations(model, toy, unchanged):
    same = unchanged(model.clip)
    means = activation_means(model, toy, batch_size=7)
    _, cache = model.visual.run_with_cache(model.normalize(toy.load()[0].float() / 255))
    for layer in range(3):
        torch.testing.assert_close(means.z[layer], cache[f"blocks.{layer}.attn.hook_z"].mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            means.mlp_out[layer], cache[f"blocks.{layer}.hook_mlp_out"].mean(0), rtol=1e-4, atol=1e-5
        )
    assert same()
    assert not model.visual.list_hooks()


def test_patching_a_picture_with_itself_changes_nothing(model, toy):
    one = toy.subset(torch.tensor([2]))
    vectors = class_vectors(model, toy.class_names)
    means = activation_means(model, one)
    for over in ("heads", "mlps", "layers"):
        sweep = total_ablation(model, one, Nothing(), means, vectors, 3, over, "forward")
        assert set(sweep.clean_accuracy) == {sweep.baseline[0]}
        assert set(sweep.attack_success_rate) == {sweep.baseline[1]}


def test_total_effects_refuse_wrong_settings(model, toy):
    vectors = class_vectors(model, toy.class_names)
    means = activation_means(model, toy)
    with pytest.raises(SettingError, match="not 'tokens'"):
        total_ablation(model, toy, Nothing(), means, vectors, 3, "tokens")
    with pytest.raises(SettingError, match="not 'up'"):
        total_ablation(model, toy, Nothing(), means, vectors, 3, "heads", "up")
    with pytest.raises(SettingError, match="out of range"):
        total_ablation(model, toy, Nothing(), means, vectors, 4)


# --- one call for both ------------------------------------------------------------------------------------------------


def test_one_call_gives_direct_and_total_effects(model, toy):
    trigger, held_out = BadNet(share=0.5), toy.first(8)
    vectors = class_vectors(model, toy.class_names, toy.templates)
    direct = mean_ablation(model, toy, held_out, trigger, over="mlps", scheme="backward", convention="paper")
    expected = direct_ablation(
        collect(model, toy, rule=PAPER),
        collect(model, toy, trigger, PAPER),
        collect(model, held_out, rule=PAPER).means(),
        vectors,
        3,
        "mlps",
        "backward",
    )
    assert direct == expected
    assert direct.layers == (-1, 0, 1, 2)
    total = mean_ablation(model, toy, held_out, trigger, target="pear", over="layers", effect="total")
    means = activation_means(model, held_out)
    assert total == total_ablation(model, toy, trigger, means, vectors, 1, "layers", "forward")
    assert total.baseline[0] == direct.baseline[0]


def test_one_call_refuses_wrong_settings_before_any_work(model, toy, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("worked before checking")

    monkeypatch.setattr(ablation, "collect", fail)
    with pytest.raises(SettingError, match="direct and total, not 'indirect'"):
        mean_ablation(model, toy, toy, Nothing(), effect="indirect")
    with pytest.raises(SettingError, match="not 'neurons'"):
        mean_ablation(model, toy, toy, Nothing(), over="neurons")
    with pytest.raises(SettingError, match="not 'none'"):
        mean_ablation(model, toy, toy, Nothing(), scheme="none")
    with pytest.raises(DataError, match="no class 'banana'"):
        mean_ablation(model, toy, toy, Nothing(), target="banana")
    no_target = ImageSet("plain", toy.class_names, toy.labels, toy.source)
    with pytest.raises(SettingError, match="plain has no target class: name one"):
        mean_ablation(model, no_target, toy, Nothing())


def test_unknown_conventions_are_refused(model, toy):
    with pytest.raises(SettingError, match="no convention 'exactly'"):
        mean_ablation(model, toy, toy, Nothing(), convention="exactly")
    assert collect(model, toy.first(2)).convention is EXACT
