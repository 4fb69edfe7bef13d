"""Findings 1 and 2 on sweeps whose verdict is known."""

import pytest

from analyses.findings import decide
from clip_decomp.ablation import AblationResult
from clip_decomp.errors import SettingError

LAYERS = 8


def sweep(over, scheme, asr):
    flat = (0.9,) * LAYERS
    return AblationResult(
        over, scheme, "direct", tuple(range(LAYERS)), flat, tuple(asr), flat, (0.9, 1.0, 0.1), 100, 90
    )


def cases(heads_all=1.0, mlps_all=1.0, last_head=1.0, late_mlps=1.0, one_mlp=1.0):
    ones = [1.0] * LAYERS
    return [
        sweep("heads", "forward", [*ones[:-1], heads_all]),
        sweep("heads", "backward", [heads_all, *ones[1:-1], last_head]),
        sweep("heads", "separate", [*ones[:-1], last_head]),
        sweep("mlps", "forward", [*ones[:-1], mlps_all]),
        sweep("mlps", "backward", [mlps_all, 1.0, 1.0, late_mlps, *ones[4:]]),
        sweep("mlps", "separate", [*ones[:-2], one_mlp, 1.0]),
    ]


def test_a_patch_in_the_last_heads_appears():
    first, second = decide(cases(heads_all=0.02, last_head=0.1), "badnet")
    assert (first.appears, second.appears) == (True, True)
    assert "2.0%" in first.sentence
    assert second.metrics == {"asr-without-last-heads": 0.1, "most-infected-layer": 7}


def test_a_patch_that_needs_the_mlps_too_does_not_appear():
    first, second = decide(cases(heads_all=0.02, mlps_all=0.3, last_head=0.9), "badnet")
    assert (first.appears, second.appears) == (False, False)


def test_a_global_trigger_spread_over_late_mlps_appears():
    first, second = decide(cases(mlps_all=0.0, late_mlps=0.05), "blended")
    assert (first.appears, second.appears) == (True, True)


def test_a_global_trigger_in_one_mlp_is_not_spread():
    _, second = decide(cases(mlps_all=0.0, late_mlps=0.05, one_mlp=0.1), "blended")
    assert not second.appears
    assert second.metrics["most-infected-layer"] == 6


def test_attacks_the_paper_says_nothing_about_are_refused():
    with pytest.raises(SettingError, match="wanet"):
        decide(cases(), "wanet")
