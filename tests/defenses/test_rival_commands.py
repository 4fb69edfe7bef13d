"""``detect strip | scale-up | teco | backdoor-ids`` from end to end, on a handful of pictures."""

import json
import sys
from functools import partial

import pytest

from clip_decomp.cli import main
from defenses import detection


@pytest.mark.parametrize(
    ("name", "options", "setting"),
    [
        ("strip", ["--blends", "2", "--calibration", "4"], ("weight", 0.5)),
        ("scale-up", ["--calibration", "20", "--factor", "3", "--factor", "9"], ("factors", [3, 9])),
        ("teco", ["--corruption", "contrast", "--corruption", "fog", "--calibration", "4"], ("calibration", 4)),
        ("backdoor-ids", ["--steps", "4", "--calibration", "4"], ("min_samples", 1)),
    ],
)
def test_the_commands_measure_triggered_pictures_against_clean_ones(name, options, setting, monkeypatch, tmp_path):
    monkeypatch.setattr(detection, "auroc", partial(detection.auroc, rounds=5))
    few = ["--model", "world/badnet", "--images", "26", "--force", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["clip-decomp", "detect", name, *few, *options])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    found = json.loads((tmp_path / "results.json").read_text())
    for measure in ("auroc", "auroc-target"):
        assert 0 <= found["metrics"][f"world/badnet/{name}/{measure}"] <= 1
    assert found["metrics"][f"world/badnet/{name}/seconds-per-image"] > 0
    assert found["metrics"]["world/badnet/none/asr"] > 0.5
    assert found["settings"][setting[0]] == setting[1]
    assert isinstance(found["settings"]["cutoff"], float)
    assert found["counts"]["triggered"] < 26
