"""What is said where a scale has only some of the shifted sets, or none."""

import pytest

from analyses.figures import cbpt
from analyses.figures.bench import Bench
from analyses.figures.setting import Setting
from analyses.figures.tuned import Compared


@pytest.mark.parametrize(("sets", "evidence"), [((), []), (("ImageNet-R",), ["ImageNet-R +20.0"])])
def test_only_sets_that_are_there_decide_whether_shifts_matter(monkeypatch, tmp_path, sets, evidence):
    found = Compared({}, [], {})
    for data in ("ImageNet", *sets):
        for case, rate in (("undefended", 0.9), ("Ours", 0.1 if data == "ImageNet" else 0.3)):
            found.add(("badnet", data, case), [{"asr": rate, "ca": 0.9, "pa": 0.5}], "photographs")
    monkeypatch.setattr(cbpt, "compared", lambda *arguments: found)
    bench = Bench(Setting("world", None, None, 26, 40, 0, "cpu"), tmp_path)
    drawn = cbpt.across_domains(bench, ("badnet",))
    assert [each.evidence for each in drawn.verdicts] == evidence
    assert not any(each.appears for each in drawn.verdicts)
    assert len(drawn.tables[0][1]) == 2 * (1 + len(sets))
