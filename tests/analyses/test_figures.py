import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock

from analyses.figures import catalog, closer_look
from analyses.figures.attending import attending, seen
from analyses.figures.bench import Attacked, Bench
from analyses.figures.digest import code_of
from analyses.figures.dry_run import throughput
from analyses.figures.items import Drawn, Item, Verdict
from analyses.figures.page import write
from analyses.figures.runs import run
from analyses.figures.setting import Setting
from clip_decomp.errors import DataError, SettingError
from clip_decomp.evaluation.rates import rate
from clip_decomp.plots.rates import bars

SETTING = Setting("world", None, None, 26, 40, 0, "cpu")


def drawing(bench, attacks):
    """A figure of the undefended rates, which costs nothing."""
    numbers = {attack: bench.defenses(attack, ())["none"]["asr"] for attack in attacks}
    figure = bars([(attack, {"attack success": rate(round(26 * asr), 26)}) for attack, asr in numbers.items()], "Rates")
    table = pd.DataFrame([{"attack": attack, "ASR": asr} for attack, asr in numbers.items()])
    verdict = Verdict("attacks take", "ASR above 80 %", min(numbers.values()) > 0.8, f"{min(numbers.values()):.1%}")
    return Drawn(
        "What | is left.", [("Rates.", figure)], [("Rates.", table)], {"world/badnet/none/asr": 1.0}, [verdict]
    )


RATES = Item("rates", "Rates", "nobody, figure 1", ("badnet", "wanet"), drawing)


@pytest.fixture(scope="module", autouse=True)
def _without_png():
    """A browser for every figure would take minutes; one test has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analyses.figures.runs._write_pngs", lambda folder, drawn: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("figures")


def test_what_was_done_or_is_missing_is_told_as_json(tmp_path, succeed, monkeypatch):
    monkeypatch.setattr(catalog, "ITEMS", (RATES,))
    found = json.loads(succeed("figures", "rates", "--images", "26", "--held-out", "40", "--out", tmp_path, "--json"))
    assert (found["scale"], found["files"]) == ("world", [str(tmp_path / "report.html")])
    (item,) = found["items"]
    assert (item["name"], list(item["left_out"])) == ("rates", ["wanet"])
    assert [claim["appears"] for claim in item["claims"]] == [True]
    plan = json.loads(succeed("figures", "rates", "--plan", "--json", "--out", tmp_path))["plan"]
    assert plan[0] == "rates (nobody, figure 1): badnet"
    assert "rates (nobody, figure 1): badnet" in succeed("figures", "rates", "--plan", "--out", tmp_path)


def test_a_figure_is_drawn_once_with_the_same_settings(folder):
    (first,) = run([RATES], SETTING, folder)
    before = {file.name: file.read_bytes() for file in first.folder.iterdir()}
    assert first.state == "drawn"
    assert first.left_out == {"wanet": "not built (clip-decomp zoo build world/wanet)"}
    assert {"results.json", "figure.html", "figure-1.json", "table-1.csv", "table-1.md"} <= set(before)
    assert json.loads(before["results.json"])["settings"]["verdicts"][0]["appears"] is True
    (again,) = run([RATES], SETTING, folder)
    assert again.state == "there"
    assert {file.name: file.read_bytes() for file in again.folder.iterdir()} == before
    (other,) = run([RATES], replace(SETTING, seed=1), folder)
    assert other.state == "drawn"


def test_an_interrupt_leaves_the_older_figure_or_none(folder, tmp_path):
    def interrupted(bench, attacks):
        raise KeyboardInterrupt

    list(run([RATES], SETTING, folder))
    before = sorted(file.name for file in folder.iterdir())
    for place, setting in ((folder, replace(SETTING, held_out=41)), (tmp_path, SETTING)):
        with pytest.raises(KeyboardInterrupt):
            list(run([replace(RATES, draw=interrupted)], setting, place))
    assert sorted(file.name for file in folder.iterdir()) == before
    assert not (tmp_path / "rates").exists()
    (resumed,) = run([RATES], SETTING, tmp_path)
    (whole,) = run([RATES], SETTING, folder)
    for name in ("figure-1.json", "table-1.csv", "table-1.md", "shown.json"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_the_page_is_made_of_what_is_there(folder):
    runs = list(run([RATES], SETTING, folder))
    page = write([RATES, replace(RATES, name="other", title="Not there")], runs, folder).read_text()
    assert "1 figures and tables; 1 of 1 claims appear" in page
    assert "clip-decomp zoo build world/wanet" in page
    assert "Not there" not in page
    assert "attacks take | yes |" in (folder / "findings.md").read_text()


def test_attacks_that_did_not_take_or_are_missing_are_left_out(tmp_path, monkeypatch):
    bench = Bench(SETTING, tmp_path)
    monkeypatch.setattr(Bench, "_parts", lambda self, attack, only, few=False: [{"numbers": {"asr": 0.4}}])
    assert bench.refused("badnet") == "its attack did not take (ASR 40.0%)"
    own = Bench(replace(SETTING, models=tmp_path / "own"), tmp_path)
    assert "clip-decomp attack badnet --model" in str(own.refused("badnet"))
    (nothing,) = run([replace(RATES, attacks=("wanet",))], SETTING, tmp_path)
    assert nothing.state == "left out"
    assert not nothing.folder.exists()


def test_one_that_cannot_be_drawn_leaves_the_others_alone(tmp_path):
    def refused(bench, attacks):
        raise SettingError("128 pictures are too few.")

    broken, empty = replace(RATES, name="broken", draw=refused), replace(RATES, name="empty", draw=lambda *_: Drawn(""))
    runs = list(run([broken, empty, RATES], SETTING, tmp_path))
    assert [each.state for each in runs] == ["left out", "left out", "drawn"]
    assert runs[0].left_out["all"] == "128 pictures are too few."
    page = write([broken, empty, RATES], runs, tmp_path).read_text()
    assert "128 pictures are too few." in page
    again = write([broken, empty, RATES], runs[2:], tmp_path).read_text()  # a later call that asks for one
    assert "128 pictures are too few." in again


def test_pictures_of_a_figure_are_made_up_for(tmp_path, monkeypatch):
    (first,) = run([RATES], SETTING, tmp_path)
    asked = []
    monkeypatch.setattr("analyses.figures.runs.find_spec", lambda name: name)
    monkeypatch.setattr("analyses.figures.runs._write_pngs", lambda folder, figures: asked.append(len(figures)))
    list(run([RATES], SETTING, tmp_path))
    assert asked == [1]
    (first.folder / "figure-1.png").touch()
    list(run([RATES], SETTING, tmp_path))
    assert asked == [1]


def test_a_change_of_code_that_a_figure_uses_draws_it_again(monkeypatch):
    code_of.cache_clear()
    before = code_of("analyses.figures.rvpt"), code_of("analyses.figures.closer_look")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#" * (self.name == "tuned.py"))
    code_of.cache_clear()
    assert code_of("analyses.figures.rvpt") != before[0]
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#" * (self.name == "cbpt_features.py"))
    code_of.cache_clear()
    assert code_of("analyses.figures.closer_look") == before[1]
    code_of.cache_clear()


def test_models_that_aim_elsewhere_are_shown_their_own_data(tmp_path):
    (tmp_path / "a-val.parquet").touch()
    own = replace(SETTING, models=tmp_path / "models", data=str(tmp_path), others=(("ImageNet-V2", "imagenet-v2=X"),))
    assert own.data_of("badnet") == str(tmp_path)
    assert own.data_of("Caltech-101/badnet") == f"{tmp_path}:b"
    assert own.sets["ImageNet-V2"] == "imagenet-v2=X"
    assert "--target CLASS" in own.missing("Oxford Pets/badnet")
    assert SETTING.data_of("Caltech-101/badnet") is None  # the zoo's cards say it


def test_what_cannot_be_written_or_read_is_said_before_anything_is_drawn(succeed, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert "no folder" in succeed("figures", "--reproduction", nowhere / "page.md", "--out", tmp_path, code=1)
    other = ["--scale", "photographs", "--models", tmp_path, "--out", tmp_path, "--other"]
    assert "Caltech-101" in succeed("figures", *other, "Caltech=caltech101=X", code=1)
    assert "the world has all sets" in succeed("figures", "--other", "ImageNet-V2=X", "--out", tmp_path, code=1)


def test_what_another_process_draws_is_waited_for_at_the_end(tmp_path):
    (tmp_path / "locks").mkdir()
    other = FileLock(tmp_path / "locks" / "rates", thread_local=False)
    other.acquire()
    seen = []
    for each in run([RATES, replace(RATES, name="free")], SETTING, tmp_path):
        seen.append((each.item.name, each.state))
        other.release()
    assert seen == [("free", "drawn"), ("rates", "drawn")]


def test_all_heads_and_all_mlps_ablated(tmp_path):
    (item,) = (each for each in closer_look.ITEMS if each.name == "closer-look-f1")
    (drawn,) = run([replace(item, attacks=("badnet",))], SETTING, tmp_path)
    results = json.loads((drawn.folder / "results.json").read_text())
    table = pd.read_csv(drawn.folder / "table-1.csv", keep_default_na=False)
    assert list(table["ablated"]) == ["none", "all heads", "all MLPs"]
    assert results["metrics"]["world/badnet/none/asr;ablated=all-heads"] == pytest.approx(
        table["attack success"][1], abs=1e-5
    )
    assert results["settings"]["verdicts"][0]["claim"] == "BadNet: a patch lives in heads"


def test_names_are_unique_and_unknown_ones_are_refused(succeed, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_DECOMP_CACHE", str(tmp_path / "cache"))
    assert len({item.name for item in catalog.ITEMS}) == len(catalog.ITEMS)
    assert "closer-look-f1" in succeed("figures", "closer-look-1", "--out", tmp_path, code=1)
    assert "--models" in succeed("figures", "--scale", "imagenet", code=1)
    planned = succeed("figures", "--plan")
    assert "closer-look-t2" in planned
    assert planned.count("model world/sig: clip-decomp zoo build world/sig") == 1


def test_the_dry_run_of_imagenet_tells_data_models_and_hours(succeed, monkeypatch):
    monkeypatch.setattr("analyses.figures.dry_run.throughput", lambda device: 1000.0)
    said = succeed("figures", "rvpt-t1", "cbpt-t2", "--scale", "imagenet", "--dry-run")
    assert "1000.0 pictures a second" in said
    assert "ImageNet-A: imagenet-a=FOLDER, 7,500 pictures" in said
    # 5 epochs of 500,000 pairs, forward and backward, are 7.5 million passes.
    assert "2.08 h  model badnet: poisoned fine-tuning, 5 epochs" in said
    assert "--scale imagenet" in succeed("figures", "--dry-run", code=1)


def test_the_throughput_is_measured(monkeypatch, model):
    monkeypatch.setattr("analyses.figures.dry_run.load", lambda name, device: model)
    monkeypatch.setattr("analyses.figures.dry_run._SIDE", 32)
    assert throughput("cpu") > 0


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_ends_like_one_that_is_not(tmp_path):
    names = ["closer-look-f5", "closer-look-f7", "rvpt-f7", "cbpt-f2"]
    rest = ["--images", "104", "--held-out", "104"]

    def start(folder):
        command = [sys.executable, "-m", "clip_decomp.cli", "figures", *names, *rest, "--out", str(folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begun = time.monotonic()
    assert start(tmp_path / "whole").wait() == 0
    whole = time.monotonic() - begun
    draw = random.Random(0)
    for _ in range(5):
        process = start(tmp_path / "killed")
        time.sleep(draw.uniform(0.2, 0.9) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def contents(folder):
    """All that is not a time, by file."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.is_dir() or name.startswith(("locks", "measured")) or file.suffix == ".html":
            continue
        if file.name == "results.json":
            results = json.loads(file.read_text())
            found[name] = {key: value for key, value in results.items() if key != "seconds"}
        else:
            found[name] = file.read_bytes()
    return found


def test_heads_that_attend_to_the_trigger_are_shown_and_ranked_by_how_far_they_move(tmp_path):
    each = Attacked(SETTING, "badnet")
    figures, found = attending(each, np.arange(12.0))
    assert [caption.partition(" picture")[0].rpartition(" ")[2] for caption, _ in figures] == ["clean", "triggered"]
    assert found.evidence.endswith("of 12 heads")
    order = np.empty(12)
    order[seen(each)[1].argsort().numpy()] = np.arange(12.0)  # as they take from the trigger
    assert attending(each, order)[1].evidence == "1.00 of 12 heads"
    assert attending(each, order)[1].appears
    assert attending(each, -order)[1].evidence == "-1.00 of 12 heads"
    assert not attending(each, -order)[1].appears
    target = each.subject.data.test.class_index(each.subject.target)
    test = each.subject.data.test
    only = replace(test, labels=torch.full_like(test.labels, target))
    each.subject = replace(each.subject, data=replace(each.subject.data, test=only))
    with pytest.raises(DataError, match="all of 26 test pictures are of the target class"):
        attending(each, np.arange(12.0))


def test_a_figure_that_can_no_longer_be_drawn_is_not_shown(tmp_path, monkeypatch):
    (item,) = catalog.chosen(["closer-look-f7"])
    (drawn,) = run([item], SETTING, tmp_path)
    assert "The pool of texts" in write([item], [drawn], tmp_path).read_text()
    monkeypatch.setattr(Bench, "refused", lambda bench, attack: "not built (somehow)")
    (gone,) = run([item], SETTING, tmp_path)
    assert (gone.state, "all" in gone.left_out, gone.folder.exists()) == ("left out", True, True)
    page = write([item], [gone], tmp_path).read_text()
    assert "The pool of texts: badnet, not built (somehow)." in page
    assert "0 figures and tables" in page
