"""``filtering``: every measurement is made once, kept, and named as the contract says."""

import json

import pytest

from analyses import filtering
from analyses.commands.filters import rows
from analyses.filtering import Measurement, Setting, measurements, metrics, run
from clip_decomp.errors import SettingError

FEW = {"images": 52, "calibration": 80}


def names(found):
    return [each["name"] for each in found]


def keep(monkeypatch, *kept):
    every = measurements()
    monkeypatch.setattr(filtering, "measurements", lambda without=(): [each for each in every if each.name in kept])


def test_a_model_is_measured_once_and_an_interrupted_run_goes_on(monkeypatch, tmp_path):
    keep(monkeypatch, "none", "decomp-det;score=distance;parts=both")
    steps = run(["world/badnet"], None, tmp_path, **FEW)
    first = next(steps)
    assert first["numbers"]["asr"] > 0.8
    steps.close()  # interrupted
    assert len(list((tmp_path / "parts").iterdir())) == 1
    kept = (tmp_path / "parts" / Setting(
        "world/badnet", first["tower"], None, 52, 80, 0
    ).file("none"))  # fmt: skip
    kept.write_text(json.dumps({**first, "seconds": -1.0}))  # would not survive being measured again
    found = list(run(["world/badnet"], None, tmp_path, **FEW))
    assert names(found) == ["none", "decomp-det;score=distance;parts=both"]
    assert found[0]["seconds"] == -1.0
    assert found[1]["numbers"]["auroc"] > 0.8
    numbers = metrics(found)
    assert numbers["world/badnet/decomp-det/auroc;score=distance;parts=both"] == found[1]["numbers"]["auroc"]
    assert numbers["world/badnet/none/asr"] == first["numbers"]["asr"]
    assert "AUROC, target class" in rows(found)[1][1]
    other = Setting("world/badnet", first["tower"], None, 52, 80, 1).file("none")
    assert other != kept.name


def test_of_a_model_whose_attack_did_not_take_nothing_else_is_measured(monkeypatch, tmp_path, caplog):
    def never(work):
        raise AssertionError("measured all the same")

    weak = [Measurement("none", lambda work: {"asr": 0.5}), Measurement("strip", never)]
    monkeypatch.setattr(filtering, "measurements", lambda without=(): weak)
    found = list(run(["world/badnet", "world/blended"], None, tmp_path, **FEW))
    assert [(each["model"], each["name"]) for each in found] == [("world/badnet", "none"), ("world/blended", "none")]
    assert "did not take" in caplog.text


def test_models_of_one_attack_are_told_apart():
    part = {"model": "a", "attack": "sig", "data": "world", "name": "guard;mode=repair", "numbers": {"asr": 0.1}}
    assert metrics([part]) == {"world/sig/guard/asr;mode=repair": 0.1}
    both = metrics([part, {**part, "model": "b"}])
    assert set(both) == {f"world/sig/guard/asr;model={name};mode=repair" for name in "ab"}


def test_what_is_left_out_must_exist(tmp_path):
    assert not any(name.startswith("teco") for name in (each.name for each in measurements(["teco"])))
    assert len({each.name for each in measurements()}) == len(measurements())
    with pytest.raises(SettingError, match="teco"):
        measurements(["tecoo"])
    with pytest.raises(SettingError, match="carries no attack"):
        list(run(["world/clean"], None, tmp_path, **FEW))
