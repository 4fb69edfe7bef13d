from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.offline
import pytest

from clip_decomp.errors import SettingError
from clip_decomp.evaluation import rate
from clip_decomp.plots import bars, head_map, pictures
from clip_decomp.report import Picture, Section, write_report

HOSTILE = '<script>alert("x")</script><img src=https://example.org/a onerror=alert(1)>'
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements, ids, links and the balance of tags of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"script", "style"}:
            self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def figure(name: str = "no defense"):
    return bars([(name, {"ASR": rate(9, 10)})], name)


def hostile_sections() -> list[Section]:
    uri = pictures([[np.zeros((3, 4, 4), np.uint8)]])
    inner = Section(HOSTILE, HOSTILE, figures=[(HOSTILE, figure(HOSTILE))])
    return [
        Section(
            HOSTILE,
            f"{HOSTILE}\n\nA second paragraph.",
            figures=[("Rates", figure()), ("Heads", head_map(np.eye(3), HOSTILE, HOSTILE))],
            tables=[(HOSTILE, [{HOSTILE: HOSTILE}])],
            images=[(HOSTILE, uri), Picture("Grid", uri, (HOSTILE,))],
            subsections=[inner],
        )
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert write_report(path, HOSTILE, HOSTILE, hostile_sections(), {HOSTILE: HOSTILE}) == path
    return path.read_text(encoding="utf-8")


def own(source: str) -> str:
    """The page without Plotly's script."""
    return source.replace(plotly.offline.get_plotlyjs(), "")


def test_plotly_is_embedded_once_and_the_page_stays_small(source):
    assert source.count(plotly.offline.get_plotlyjs()) == 1
    assert own(source).count("<script>") == own(source).count("</script>") == 2
    assert len(source.encode()) < 6_000_000


def test_nothing_is_loaded_from_a_network(source):
    page = Page(own(source))
    for _, attributes in page.elements:
        assert "srcset" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")
        assert "action" not in attributes
    assert not page.all("link")
    styles = "".join(re.findall(r"<style>(.*?)</style>", own(source), re.S))
    assert "url(" not in styles
    assert "@import" not in styles
    policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
    assert policy.startswith("default-src 'none'")


def test_hostile_text_is_shown_and_never_run(source):
    page = Page(own(source))
    assert len(page.all("script")) == 2
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert page.text.count(HOSTILE) >= 9
    assert "<script>alert" not in source
    assert "alert" not in "".join(each.get("src", "") for each in page.all("img"))


def test_the_page_is_well_formed_and_accessible(source):
    page = Page(own(source))
    assert source.startswith("<!DOCTYPE html>")
    assert page.open == []
    assert page.all("html") == [{"lang": "en"}]
    assert any(each.get("name") == "viewport" for each in page.all("meta"))
    assert HOSTILE in page.text
    assert all(each["alt"] for each in page.all("img"))
    assert all(each["aria-label"] for each in page.all("div") if each.get("class") == "plot")
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))


def test_contents_lead_to_every_section(source):
    page = Page(own(source))
    links = [each["href"].removeprefix("#") for each in page.all("a")]
    assert links == ["section-1", "section-1-1"]
    assert set(links) == {each["id"] for each in page.all("section")}


def test_figures_are_numbered_responsive_and_without_a_mode_bar(source):
    page = Page(own(source))
    plots = [each["id"] for each in page.all("div") if each.get("class") == "plot"]
    assert plots == ["figure-1", "figure-2", "figure-3"]
    assert "{ responsive: true, displayModeBar: false }" in source


def test_tables_show_rates_numbers_and_gaps(tmp_path: Path):
    rows = [
        {"model": "badnet", "ASR": rate(90, 100), "images": 100, "std": 0.12345},
        {"model": "clean", "ASR": None, "std": float("nan")},
    ]
    frame = pd.DataFrame({"share": [0.5, 1.0]}, index=pd.Index(["a", "b"], name="kind"))
    copy = frame.copy()
    section = Section("Tables", tables=[("Rates", rows), ("Shares", frame)])
    source = write_report(tmp_path / "report.html", "Report", "Lead.", [section]).read_text()
    cells = re.findall(r"<td( class=\"number\")?>(.*?)</td>", source)
    assert [text for _, text in cells[:8]] == [
        "badnet", "90.0 % (82.6 to 94.5)", "100", "0.123", "clean", "-", "-", "-",
    ]  # fmt: skip
    assert [bool(number) for number, _ in cells[:4]] == [False, True, True, True]
    assert [text for _, text in cells[8:]] == ["a", "0.500", "b", "1.000"]
    assert '<th scope="col">kind</th>' in source
    pd.testing.assert_frame_equal(frame, copy)


def test_paragraphs_split_on_blank_lines(tmp_path: Path):
    section = Section("Text", "One\nstill one.\n \nTwo.\n\n\n")
    source = write_report(tmp_path / "report.html", "Report", "", [section]).read_text()
    assert re.findall(r"<p>(.*?)</p>", source) == ["One still one.", "Two."]


def test_without_figures_no_script_is_embedded(tmp_path: Path):
    path = write_report(tmp_path / "report.html", "Report", "Lead.", [Section("Empty")])
    assert "<script" not in path.read_text()
    assert path.stat().st_size < 10_000


def test_the_figure_is_unchanged_and_its_values_reach_the_page(tmp_path: Path):
    shown = head_map(np.eye(3), "Heads", "share")
    before = shown.to_json()
    source = write_report(
        tmp_path / "report.html", "Report", "", [Section("Heads", figures=[("Map", shown)])]
    ).read_text()
    assert shown.to_json() == before
    assert "L2H2" in own(source)


def test_a_failed_report_leaves_the_old_one_and_no_draft(tmp_path: Path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, "Report", "", [])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_report_is_overwritten_in_place(tmp_path: Path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, "Report", "", [])
    assert "<h1>Report</h1>" in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_must_be_embedded(tmp_path: Path):
    with pytest.raises(SettingError, match="data URIs"):
        write_report(
            tmp_path / "report.html", "Report", "", [Section("A", images=[("cat", "https://example.org/a.png")])]
        )
    assert not list(tmp_path.iterdir())


def test_a_large_report_is_named_in_a_warning(tmp_path: Path, caplog):
    uri = "data:image/png;base64," + "A" * 6_000_000
    write_report(tmp_path / "report.html", "Report", "", [Section("A", images=[("large", uri)])])
    assert "6.0 MB" in caplog.text
