"""The papers' numbers, and ours beside them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from analyses.figures import catalog
from analyses.figures.closer_look_choices import carried
from analyses.figures.closer_look_defenses import improved, repaired
from analyses.figures.items import Drawn, Item
from analyses.figures.papers import agreement, beside, moved, printed, read, rows
from analyses.figures.reproduction import publish, reproduction
from analyses.figures.runs import Run
from analyses.figures.tuned import works

NUMBERS = """attack,case,data,measure,value
BadNet,undefended,ImageNet,ASR,96.0
BadNet,RVPT,ImageNet,ASR,13.0
BadNet,RVPT,ImageNet,clean accuracy,82.5
BadNet,new,ImageNet,ASR,50.0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rvpt-t1").mkdir()
    (tmp_path / "rvpt-t1" / "measured.csv").write_text(NUMBERS)
    verdict = {"claim": "it helps", "rule": "less", "appears": True, "evidence": "96 to 13"}
    settings = {"verdicts": [verdict], "left_out": {"wanet": "not built"}, "attacks": ["badnet"]}
    settings |= {"images": 400, "held_out": 400}
    results = {"scale": "world", "seed": 0, "settings": settings, "seconds": 2.0, "versions": {"torch": "2"}}
    (tmp_path / "rvpt-t1" / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_numbers_are_the_papers():
    # Cells that were compared with the papers' text by eye.
    assert printed("rvpt-t1")["BadCLIP (Liang et al.)", "RVPT", "ImageNet", "ASR"] == 2.76
    assert printed("closer-look-t1")["BadCLIP (Liang et al.)", "Decomp-Rep", "ImageNet", "ASR"] == 0.94
    assert printed("closer-look-t5")["BadCLIP (Liang et al.)", "Decomp-Rep", "ImageNet", "ASR"] == 25.08
    assert printed("cbpt-t1")["BadNet", "undefended", "ImageNet", "ASR"] == 96.51
    assert printed("rvpt-t7")["", "CleanCLIP", "", "time (s)"] == 3 * 3600 + 53 * 60 + 2
    assert printed("nothing") == {}


def test_every_table_of_the_papers_has_an_item():
    names = {item.name for item in catalog.ITEMS}
    tables = {f"closer-look-t{n}" for n in range(1, 6)} | {f"rvpt-t{n}" for n in range(1, 11)}
    tables |= {f"cbpt-t{n}" for n in range(1, 4)}
    figures = {f"closer-look-f{n}" for n in range(1, 8)} | {f"rvpt-f{n}" for n in (1, 3, 4, 5, 6, 7, 10)}
    assert names == tables | figures | {f"cbpt-f{n}" for n in (2, 4, 5, 6)}
    assert all(printed(name) for name in tables)


def shares(item, attack, case, data="ImageNet"):
    keys = {"asr": "ASR", "ca": "clean accuracy"}
    return {key: printed(item)[attack, case, data, name] / 100 for key, name in keys.items()}


@pytest.mark.parametrize("attack", ["BadNet", "Blended", "Label-Consistent", "ISSBA", "BadCLIP (Liang et al.)"])
def test_the_papers_own_numbers_pass_the_rules_of_its_repair(attack):
    before, after = (shares("closer-look-t1", attack, case) for case in ("undefended", "Decomp-Rep"))
    assert repaired(before, after)


@pytest.mark.parametrize("attack", ["BadNet", "Blended", "ISSBA", "WaNet", "TrojVQA", "BadCLIP (Liang et al.)"])
def test_the_papers_own_numbers_pass_the_rules_of_rvpt(attack):
    before, after = (shares("rvpt-t1", attack, case) for case in ("undefended", "RVPT"))
    assert works("badnet", "ImageNet", "RVPT", before, after).appears


@pytest.mark.parametrize("attack", ["BadNet", "Label-Consistent", "BadCLIP (Liang et al.)"])
def test_the_papers_own_numbers_pass_the_rule_of_the_reverse(attack):
    before, back = shares("closer-look-t1", attack, "undefended"), shares("closer-look-t3", attack, "Decomp-Reverse")
    assert carried(back, before["ca"])
    assert carried({**back, "ca": 0.93}, 0.95)  # two points, which floats make a little less of
    assert not carried({**back, "ca": 0.935}, 0.95)


@pytest.mark.parametrize("attack", ["BadNet", "Blended", "Label-Consistent", "ISSBA", "BadCLIP (Liang et al.)"])
def test_the_papers_own_numbers_pass_the_rule_of_repair_after_cleanclip(attack):
    alone, both = (shares("closer-look-t1", attack, f"CleanCLIP{more}")["asr"] for more in ("", " + Decomp-Rep"))
    (found,) = improved("badnet", alone, both)
    assert found.appears
    assert not improved("badnet", alone, alone - 0.016)[0].appears
    assert improved("badnet", 0.05, 0.0) == []


def test_ours_stand_beside_the_papers(folder):
    found = beside("rvpt-t1", {"world": folder / "rvpt-t1"})
    assert found["BadNet", "RVPT", "ImageNet", "ASR"] == {"paper": 0.05, "world": 13.0}
    assert found["BadNet", "new", "ImageNet", "ASR"] == {"world": 50.0}
    table = rows(found, ["world"])
    (row,) = (each for each in table if (each["attack"], each["case"]) == ("BadNet", "RVPT"))
    assert (row["ASR, paper"], row["ASR, world"], row["clean accuracy, world"]) == ("0.05", "13.0", "82.5")
    assert row["ASR moves, world"].startswith("same direction: -")
    assert read(folder / "no.csv") == {}


def test_moves_are_compared_by_direction():
    numbers = {"undefended": {"paper": 90.0, "world": 90.0}, "still": {"paper": 10.0, "world": 89.0}}
    found = {("a", case, "d", "ASR"): each for case, each in numbers.items()}
    assert moved(found, ("a", "still", "d"), "world") == "not so: -80 and -1 points"
    assert moved(found, ("a", "undefended", "d"), "world") == ""
    assert moved(found, ("a", "still", "d"), "imagenet") == ""


def test_tables_without_undefended_rows_have_those_of_the_main_table(tmp_path):
    lines = [
        "attack,case,data,measure,value",
        "BadNet,undefended,ImageNet,ASR,96.0",
        "BadNet,RVPT (woTC),ImageNet,ASR,20",
    ]
    (tmp_path / "measured.csv").write_text("\n".join(lines) + "\n")
    found = beside("rvpt-t4", {"world": tmp_path})
    assert (
        found["BadNet", "undefended", "ImageNet", "ASR"]["paper"]
        == printed("rvpt-t1")["BadNet", "undefended", "ImageNet", "ASR"]
    )
    assert moved(found, ("BadNet", "RVPT (woTC)", "ImageNet"), "world").startswith("same direction")


def test_another_tower_starts_from_its_own_undefended_row():
    numbers = {"ViT-B/16; undefended": {"paper": 99, "world": 90}, "ViT-B/16; RVPT": {"paper": 1, "world": 95}}
    found = {("a", case, "d", "ASR"): each for case, each in numbers.items()}
    assert moved(found, ("a", "ViT-B/16; RVPT", "d"), "world") == "not so: -98 and +5 points"
    assert moved(found, ("a", "ViT-B/16; undefended", "d"), "world") == ""


def test_agreement_of_a_table_in_one_line():
    found = {("a", str(k), "d", "ASR"): {"paper": float(k), "world": 2.0 * k} for k in range(4)}
    assert agreement(found, "world") == "ASR of 4 cells: rank correlation 1.00, 2 points apart in the median"
    assert agreement(found, "imagenet") == ""


def test_the_page_has_every_item_and_says_what_is_missing(folder):
    items = [
        Item(name, "Title", "somebody, table 1", ("badnet",), lambda *_: Drawn("")) for name in ("rvpt-t1", "rvpt-t2")
    ]
    page = reproduction(items, {"world": folder, "elsewhere": folder / "nothing"})
    assert "At scale world: 1 of 2 items drawn, 1 of 1 claims appear." in page
    assert "| claims that appear | world |\n| --- | --- |\n| somebody | 1 of 1 |\n" in page
    assert "| rvpt-t1 | it helps | appears |" in page
    assert "- world: It helps: appears (96 to 13)." in page
    assert "- world: left out wanet, not built." in page
    assert "## rvpt-t2: Title" in page
    assert "Not drawn yet" in page
    assert "elsewhere" not in page


def test_runs_of_several_scales_add_to_one_page_and_say_nothing_of_the_machine(folder, tmp_path):
    items = [Item("rvpt-t1", "Title", "somebody, table 1", ("badnet",), lambda *_: Drawn(""))]
    results = json.loads((folder / "rvpt-t1" / "results.json").read_text())
    results["settings"] |= {"models": "/home/me/models", "data": "imagenet=/home/me/data"}
    results["settings"]["others"] = [["Caltech-101", "caltech101=/home/me/caltech"]]
    results["settings"]["left_out"] = {
        "wanet": "not built (clip-decomp attack wanet --data imagenet=/home/me/data --out /home/me/models/wanet)",
        "sig": "no folder /home/me/caltech, and none /home/me/data",
    }
    (folder / "rvpt-t1" / "results.json").write_text(json.dumps(results))
    page = tmp_path / "page.md"
    runs = [Run(items[0], folder / "rvpt-t1", "there", {})]
    for scale in ("photographs", "world"):
        publish(items, runs, scale, page)
    assert "At scale world: 1 of 1 items drawn, 1 of 1 claims appear. At scale photographs:" in page.read_text()
    assert "attack wanet --data DATA --out MODELS/wanet" in page.read_text()
    kept = tmp_path / "page" / "photographs" / "rvpt-t1"
    assert "/home/me" not in (kept / "results.json").read_text()
    assert (kept / "measured.csv").read_text() == (folder / "rvpt-t1" / "measured.csv").read_text()
    publish(items, [replace(runs[0], state="left out")], "photographs", page)  # what is kept stays
    assert "At scale photographs: 1 of 1 items drawn" in page.read_text()


def test_the_page_of_the_docs_is_what_the_kept_results_give():
    page = Path("docs/reproduction.md")
    scales = sorted(each.name for each in page.with_suffix("").iterdir())
    assert "world" in scales
    folders = {name: page.with_suffix("") / name for name in ("world", *(each for each in scales if each != "world"))}
    assert page.read_text() == reproduction(catalog.ITEMS, folders)
