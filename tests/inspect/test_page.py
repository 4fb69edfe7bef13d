"""The page as text: escaped, offline, written in one step, small."""

import html
import json
import re

import numpy as np
import pytest

from .conftest import HOSTILE


@pytest.fixture(scope="module")
def source(report) -> str:
    return report.html()


def embedded(source: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.S)[1])


def test_untrusted_text_is_escaped(source):
    assert HOSTILE not in source
    assert html.escape(HOSTILE) in source.replace("&#34;", "&quot;")
    assert "&lt;i&gt;fruit&lt;/i&gt;" in source
    assert "<i>" not in source
    assert source.count("<script") == source.count("</script>") == 2
    assert "<img" not in source


def test_nothing_can_be_loaded(source):
    assert "default-src 'none'" in source
    assert not re.search(r'\b(src|href)="(?!#)', source)
    assert "url(" not in source
    assert "@import" not in source


def test_the_maps_sent_are_the_reports(report, source):
    data = embedded(source)
    for view, sent in zip(report.views, data["views"], strict=True):
        assert sent["text"] == view.text
        for side in report.sides:
            for which in ("most", "least"):
                for shown, tile in zip(getattr(view.side(side), which), sent[side][which], strict=True):
                    step = sent[side]["step"]
                    assert np.abs(np.array(tile["map"]) * step - shown.token_map).max() <= step / 2 + 1e-9
                    assert data["pictures"][side][str(tile["number"])] == report.pictures[side, shown.number]


def test_without_an_attack_nothing_speaks_of_one(plain):
    source = plain.html()
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", source, flags=re.S)
    assert "attack" not in body
    assert "trigger" not in body
    assert "MMD" not in body
    assert set(embedded(source)["pictures"]) == {"clean"}


def test_numbers_of_the_report_are_on_the_page(report, source):
    flat = " ".join(re.sub(r"<[^>]*>", " ", source).replace("&nbsp;", " ").split())
    base, direct, total = (each.attack_success_rate.value for each in report.ablated)
    assert f"from {base:.1%} to {direct:.1%} (direct effect) or {total:.1%} (total effect)" in flat
    assert f"{report.roles.similarity:.3f}" in flat
    assert f"{report.mmd.value:.3f}" in flat
    assert report.roles.verdict.replace("role ", "Role: ") in flat


def test_a_page_is_written_in_one_step(report, tmp_path, monkeypatch):
    path = tmp_path / "new" / "L1H2.html"
    assert report.save(path) == path
    assert path.read_text() == report.html()
    assert path.stat().st_size < 1_000_000

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        report.save(path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_notebook_shows_the_page_in_a_frame(report, source):
    shown = report._repr_html_()
    inner = re.search(r'srcdoc="(.*?)" sandbox="allow-scripts"', shown, re.S)[1]
    assert html.unescape(inner) == source
