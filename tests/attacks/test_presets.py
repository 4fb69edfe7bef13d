"""The papers' settings by name."""

import logging

import pytest

from clip_decomp.attacks.implant import AttackSettings
from clip_decomp.attacks.presets import PRESETS, preset
from clip_decomp.errors import SettingError


def test_the_papers_settings():
    paper = preset("closer-look")
    assert (paper.lr, paper.schedule, paper.epochs, paper.batch_size, paper.count) == (1e-5, "cosine", 5, 128, 1500)
    assert (paper.rate, paper.steps) == (None, None)
    same = {"lr": 1e-5, "preset": "closer-look"}
    assert preset("rvpt").changed(**same) == paper
    assert preset("rvpt").lr == 1e-6
    assert preset("tiny") == AttackSettings()
    assert {name: settings.preset for name, settings in PRESETS.items()} == {name: name for name in PRESETS}


def test_a_learning_rate_that_does_not_take_is_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING):
        preset("rvpt")
    (record,) = caplog.records
    assert "1e-06, was reported not to take" in record.getMessage()
    assert "5.7 % where 1e-05 (the preset 'closer-look') reached 97.7 %" in record.getMessage()
    caplog.clear()
    preset("closer-look")
    preset("tiny")
    assert caplog.records == []


def test_an_unknown_preset_is_refused():
    with pytest.raises(SettingError, match=r"no preset 'closer'; did you mean one of \['closer-look'\]"):
        preset("closer")


# --- changing settings ------------------------------------------------------------------------------------------------


def test_nothing_changes_nothing():
    assert preset("closer-look").changed(steps=None, rate=None, lr=None) == preset("closer-look")


@pytest.mark.parametrize(("changes", "rate", "count"), [({"rate": 0.2}, 0.2, None), ({"count": 7}, None, 7)])
@pytest.mark.parametrize("name", ["closer-look", "tiny"])
def test_a_rate_takes_the_place_of_a_count(name, changes, rate, count):
    changed = preset(name).changed(**changes)
    assert (changed.rate, changed.count) == (rate, count)
    assert (changed.steps, changed.epochs) == (preset(name).steps, preset(name).epochs)


@pytest.mark.parametrize(("changes", "steps", "epochs"), [({"steps": 9}, 9, None), ({"epochs": 2}, None, 2)])
@pytest.mark.parametrize("name", ["closer-look", "tiny"])
def test_steps_take_the_place_of_epochs(name, changes, steps, epochs):
    changed = preset(name).changed(**changes)
    assert (changed.steps, changed.epochs) == (steps, epochs)


@pytest.mark.parametrize(
    "wrong", [{"rate": None}, {"count": 3}, {"steps": None}, {"epochs": 3}, {"rate": None, "steps": None}]
)
def test_amounts_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(SettingError, match="one of them"):
        AttackSettings(**wrong)


def test_copies_of_an_odd_batch_are_refused_before_anything_is_learned():
    with pytest.raises(SettingError, match="an even size, not 97"):
        AttackSettings(copies=True, batch_size=97)


@pytest.mark.parametrize("wrong", [{"rate": 0.1, "count": 3}, {"steps": 1, "epochs": 3}])
def test_changes_that_contradict_each_other_are_refused(wrong):
    with pytest.raises(SettingError, match="one of them"):
        preset("tiny").changed(**wrong)
