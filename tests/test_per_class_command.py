import json

import pandas as pd
import pytest


def test_classes_are_printed_and_written(succeed, tmp_path):
    folder = tmp_path / "new" / "folder"
    for _ in range(2):  # the second run on top of the first
        out = succeed("evaluate", "--images", "40", "--model", "world/badnet", "--per-class", "--out", str(folder))
    assert "40 pictures of world (test split)" in out
    assert "umbrella" in out
    table = pd.read_csv(folder / "per_class.csv").set_index("class")
    results = json.loads((folder / "results.json").read_text())
    assert len(table) == results["counts"]["classes"] == 26
    assert table["ca_pictures"].sum() == results["counts"]["clean"] == 40
    assert table["asr_pictures"].sum() == results["counts"]["triggered"]
    hits = (table["asr"] * table["asr_pictures"]).sum()
    assert hits / table["asr_pictures"].sum() == pytest.approx(results["metrics"]["world/badnet/none/asr"], abs=1e-5)
    assert pd.isna(table.loc["banana", "asr"])
    assert len(results["metrics"]) == 9  # classes are in the table, not here
    assert results["settings"]["templates"] == results["settings"]["triggered_templates"] == ["a photo of a {}."]
    assert "whose true class is not the target" in results["settings"]["measured"]


def test_classes_do_not_get_into_the_json(call, tmp_path):
    _, out, _ = call(
        "evaluate", "--images", "40", "--model", "world/clean", "--per-class", "--json", "--out", str(tmp_path)
    )
    assert json.loads(out)["counts"]["triggered"] == 0
    assert pd.read_csv(tmp_path / "per_class.csv")["asr"].isna().all()


def test_nobody_is_given_classes_unasked(succeed, tmp_path):
    out = succeed("evaluate", "--images", "40", "--model", "world/clean", "--out", str(tmp_path))
    assert "umbrella" not in out
    assert not (tmp_path / "per_class.csv").exists()
