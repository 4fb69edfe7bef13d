"""One call for direct and total effects."""

import pytest

from clip_decomp import ablation
from clip_decomp.ablation import activation_means, direct_ablation, mean_ablation, total_ablation
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import collect
from clip_decomp.convention import EXACT, PAPER
from clip_decomp.data.sets import ImageSet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.zeroshot import class_vectors


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


def test_one_call_refuses_wrong_settings_before_any_work(model, toy, monkeypatch, nothing):
    def fail(*args, **kwargs):
        raise AssertionError("worked before checking")

    monkeypatch.setattr(ablation, "collect", fail)
    with pytest.raises(SettingError, match="direct and total, not 'indirect'"):
        mean_ablation(model, toy, toy, nothing, effect="indirect")
    with pytest.raises(SettingError, match="not 'neurons'"):
        mean_ablation(model, toy, toy, nothing, over="neurons")
    with pytest.raises(SettingError, match="not 'none'"):
        mean_ablation(model, toy, toy, nothing, scheme="none")
    with pytest.raises(DataError, match="no class 'banana'"):
        mean_ablation(model, toy, toy, nothing, target="banana")
    no_target = ImageSet("plain", toy.class_names, toy.labels, toy.source)
    with pytest.raises(SettingError, match="plain has no target class: name one"):
        mean_ablation(model, no_target, toy, nothing)


def test_unknown_conventions_are_refused(model, toy, nothing):
    with pytest.raises(SettingError, match="no convention 'exactly'"):
        mean_ablation(model, toy, toy, nothing, convention="exactly")
    assert collect(model, toy.first(2)).convention is EXACT
