"""Audits of many models: what their scores say together."""

import json
import sys

import pytest

from analyses import audits
from analyses.audits import Audited, summary
from clip_decomp import zoo
from clip_decomp.cli import main
from clip_decomp.errors import DataError
from defenses.audit import Audit
from defenses.universal import Universal

CLASSES = ("pear", "fig", "plum")


def test_rates_over_models_are_counted():
    bad = [Audited("a", "badnet", "pear", 3.0, CLASSES), Audited("b", "sig", "fig", 1.4, CLASSES)]
    good = [Audited("c", "clean", None, 1.2, CLASSES), Audited("d", "clean", None, 1.6, CLASSES)]
    assert [each.place for each in (*bad, *good)] == [1, 2, None, None]
    found = summary(bad, good, threshold=1.5)
    assert found["audit-auroc"] == 0.75
    assert found["audit-auroc/low"] <= 0.75 <= found["audit-auroc/high"]
    assert found["audit-target-first"] == 0.5
    assert found["audit-found"] == 0.5
    assert found["audit-false-alarms"] == 0.5


def test_a_target_that_is_no_class_of_the_pictures_is_refused_before_a_scan(tmp_path):
    with pytest.raises(DataError, match="The target of world/badnet: there is no class 'banana'"):
        audits.audited(["world/badnet"], "world:tools", 24, tmp_path, 0, "cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_audits_from_the_command_line_go_on_where_they_stopped(tmp_path, monkeypatch, capsys):
    pushed, scans = Universal.noises, []

    class Quick(Audit):
        def __init__(self, **settings):
            super().__init__(batch_size=2, growth=3, progress=False, **settings)

    def counted(self, *arguments):
        scans.append(1)
        return pushed(self, *arguments)

    monkeypatch.setattr(audits, "Audit", Quick)
    monkeypatch.setattr(Universal, "noises", counted)
    arguments = ["--model", "world/badnet", "--model", "world/blended", "--clean", "world/clean"]
    arguments += ["--calibrate", str(zoo.path("world/clean")), "--count", "24", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["clip-decomp", "audits", *arguments])
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, capsys.readouterr().err
    assert len(scans) == 4 * 26  # the second run found everything there
    found = json.loads((tmp_path / "results.json").read_text())
    metrics = found["metrics"]
    assert metrics["world/clean/none/audit-score;model=world/clean"] == pytest.approx(
        found["settings"]["threshold"], abs=1e-5
    )
    assert metrics["world/clean/none/audit-false-alarms"] == 0
    assert 0 <= metrics["world/clean/none/audit-auroc"] <= 1
    assert {"world/badnet/none/audit-score;model=world/badnet"} < set(metrics)
    assert "Which models does the audit suspect?" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(sys, "argv", ["clip-decomp", "audits", *arguments, "--calibrate", "world/clean"])
    with pytest.raises(SystemExit):
        main()
    assert "A model is audited once" in capsys.readouterr().err
