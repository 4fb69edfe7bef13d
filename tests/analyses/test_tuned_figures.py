"""Figures of tuned defenses, drawn from trainings that are cut short."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from analyses.figures import catalog
from analyses.figures.bench import Bench
from analyses.figures.runs import run
from analyses.figures.setting import Setting
from analyses.figures.trainings import Training, trainings_of

SETTING = Setting("world", None, None, 26, 40, 0, "cpu")
#: What makes a training short, whatever else is asked for.
SHORT = {
    "rvpt": {"epochs": 1, "shots": 1, "length": 2},
    "vpt": {"epochs": 1, "shots": 1, "length": 2},
    "cbpt": {"epochs": 2, "warmup": 1, "shots": 1, "inversion_steps": 1},
    "linear-probe": {"epochs": 1, "shots": 1},
    "advpt": {"epochs": 1, "shots": 1, "steps": 1},
    "finetune": {"epochs": 1, "pairs": 16, "batch_size": 8},
    "cleanclip": {"epochs": 1, "pairs": 16, "batch_size": 8},
}


@pytest.fixture(scope="module", autouse=True)
def _short():
    whole = Training.fit

    def fit(self, setting, tower):
        found = whole(self, setting, tower)
        return found and replace(found, settings={**found.settings, **SHORT[self.defense]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "fit", fit)
        patch.setattr("analyses.figures.runs._write_pngs", lambda folder, drawn: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


def draw(name, folder):
    """An item of one attack, its trainings first; its folder and what was decided."""
    (item,) = catalog.chosen([name])
    bench = Bench(SETTING, folder / "measured")
    for training in trainings_of(item):
        if training.attack == "badnet" and bench.known(training) is None:
            bench.train(training)
    (drawn,) = run([replace(item, attacks=("badnet",))], SETTING, folder)
    assert drawn.state == "drawn"
    settings = json.loads((drawn.folder / "results.json").read_text())["settings"]
    return drawn.folder, [each["claim"] for each in settings["verdicts"]]


def test_tables_have_the_papers_cases(folder):
    place, claims = draw("rvpt-t1", folder)
    lines = (place / "measured.csv").read_text().splitlines()
    cases = {line.split(",")[1] for line in lines[1:]}
    assert cases == {"undefended", "CleanCLIP", "Linear Probe", "RVPT", "CLIP before poisoning"}
    assert claims == ["BadNet: RVPT takes the backdoor out", "BadNet: RVPT leaves the least of the attack"]
    table = (place / "table-1.csv").read_text().splitlines()
    assert table[0] == "attack,defense,ASR,clean accuracy,± ASR,± CA,seeds"
    assert len(table) == 5


@pytest.mark.parametrize(
    ("name", "claims"),
    [("rvpt-t3", 2), ("rvpt-t6", 8), ("rvpt-f5", 1), ("rvpt-f1", 2), ("rvpt-f6", 2), ("rvpt-t7", 2), ("cbpt-f4", 2)],
)
def test_items_share_trainings_and_decide(folder, name, claims):
    place, found = draw(name, folder)
    assert len(found) == claims
    assert (place / "table-1.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rvpt-f3", "rvpt-f4", "rvpt-t4", "rvpt-t8"])
def test_the_others_of_rvpt_are_drawn_and_decide(folder, name):
    _, found = draw(name, folder)
    assert found


@pytest.mark.slow
def test_noise_that_leaves_no_model_anything_decides_nothing(folder):
    place, found = draw("rvpt-t10", folder)
    under = pd.read_csv(place / "table-1.csv")["under PGD"]
    assert under.max() == 0  # as measured in the world
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cbpt-f5", "cbpt-f6", "cbpt-t1", "cbpt-t2", "cbpt-t3"])
def test_the_others_of_cbpt_are_drawn_and_decide(folder, name):
    _, found = draw(name, folder)
    assert found


@pytest.mark.parametrize("name", ["rvpt-f7", "rvpt-f10", "cbpt-f2", "closer-look-f7"])
def test_items_without_trainings(folder, name):
    (item,) = catalog.chosen([name])
    (drawn,) = run([replace(item, attacks=("badnet",))], SETTING, folder)
    assert drawn.state == "drawn"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "figures"), [("closer-look-f3", 3), ("closer-look-f4", 1)])
def test_texts_need_more_pictures(folder, name, figures):
    (item,) = catalog.chosen([name])
    (drawn,) = run([replace(item, attacks=("blended",))], replace(SETTING, images=200), folder)
    assert len(list(drawn.folder.glob("figure-*.json"))) == figures
