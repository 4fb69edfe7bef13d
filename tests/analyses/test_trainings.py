"""Trainings that figures share: planned once, run once, read back as what was tuned."""

import json
from dataclasses import asdict, replace

import pandas as pd
import pytest
import torch
from filelock import FileLock

from analyses import fits
from analyses.figures.bench import Bench
from analyses.figures.cbpt import FEW, MAIN, POSITIVES, cbpt
from analyses.figures.items import Drawn, Item
from analyses.figures.rivals import cleanclip, rvpt
from analyses.figures.runs import run
from analyses.figures.rvpt_costs import costs
from analyses.figures.setting import Setting
from analyses.figures.trainings import Training, missing, passes, train
from analyses.figures.tuned import compared, seeds, tabled
from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.results import write_json
from defenses import RVPT

SETTING = Setting("world", None, None, 26, 40, 0, "cpu")
TINY = (("epochs", 1), ("shots", 1), ("length", 1))
VPT = Training("badnet", "vpt", TINY, tests=("ImageNet", "ImageNet-A"))
ABSENT = Training("wanet", "rvpt", TINY)
CASES = {"VPT": lambda attack: (replace(VPT, attack=attack),)}


def drawing(bench, attacks):
    return tabled(bench, "What is left.", compared(bench, attacks, CASES), ("ASR", "clean accuracy"))


ITEM = Item("tuned", "Tuned", "nobody, table 1", ("badnet", "wanet"), drawing, (VPT, ABSENT))
OTHER = replace(ITEM, name="other", attacks=("badnet",), trainings=(VPT,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the one training that can be run was run."""
    folder = tmp_path_factory.mktemp("trained")
    bench = Bench(SETTING, folder / "measured")
    before = missing([ITEM, OTHER], bench)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analyses.figures.trainings.shelf.buildable", lambda: [])  # nothing of hours
        said = list(train([ITEM, OTHER], bench, folder / "locks"))
    return folder, before, said


def test_a_training_is_planned_and_run_once_for_all_figures(trained):
    folder, before, said = trained
    assert [each.what for each in before] == ["model world/wanet", VPT.label]
    assert before[1].items == ("tuned", "other")
    assert all(each.minutes > 0 for each in before)
    assert said == [f"{VPT.label}: trained"]
    bench = Bench(SETTING, folder / "measured")
    assert [each.what for each in missing([ITEM, OTHER], bench)] == ["model world/wanet"]
    assert list(train([OTHER], bench, folder / "locks")) == []


def test_numbers_are_of_every_set_and_what_was_tuned_is_read_back(trained):
    folder, _, _ = trained
    bench = Bench(SETTING, folder / "measured")
    known = bench.known(VPT)
    assert set(known["after"]) == {"world", "world:hard"}
    assert known["memory"] >= 0
    assert known["device"] == "cpu"
    tuned = bench.tuned(VPT)
    assert isinstance(tuned, RVPT)
    assert tuned.alpha == 0
    measured = bench["badnet"].defended(tuned)
    assert measured["asr"] == pytest.approx(known["after"]["world"]["asr"])
    assert bench.tuned(replace(VPT, seed=1)) is None
    assert bench.known(ABSENT) is None


def test_a_table_shows_what_is_trained_and_says_what_is_not(trained):
    folder, _, _ = trained
    (drawn,) = run([ITEM], SETTING, folder)
    assert drawn.left_out == {"wanet": "not built (clip-decomp zoo build world/wanet)"}
    assert (drawn.folder / "table-1.md").read_text().startswith("| attack | defense | ASR | clean accuracy |\n")
    metrics = json.loads((drawn.folder / "results.json").read_text())["metrics"]
    assert {"world/badnet/none/asr", "world/badnet/vpt/asr;case=VPT"} <= set(metrics)
    measured = (drawn.folder / "measured.csv").read_text().splitlines()
    assert measured[0] == "attack,case,data,measure,value"
    assert any(line.startswith("BadNet,VPT,ImageNet,ASR,") for line in measured)
    (waiting,) = run([replace(ITEM, name="waiting", attacks=("badnet",), trainings=(seeds(VPT)[1],))], SETTING, folder)
    assert waiting.state == "left out"
    assert waiting.left_out["badnet"] == "no defense is trained yet (clip-decomp figures waiting --train)"


def test_further_trainings_are_not_waited_for(trained):
    folder, _, _ = trained

    def shown(bench, attacks):
        return Drawn("One table.", tables=[("Attacks.", pd.DataFrame({"attack": attacks}))])

    item = Item("plain", "Plain", "nobody", ("badnet",), shown, further=(ABSENT,))
    (drawn,) = run([item], SETTING, folder)
    assert drawn.state == "drawn"


def test_trainings_of_the_imagenet_scale_are_as_long_as_the_papers():
    small, large = (replace(SETTING, scale=scale) for scale in ("world", "imagenet"))
    training = cleanclip("badnet")
    assert training.fit(small, "x").settings == {"pairs": 5000, "epochs": 2}
    assert training.fit(large, "x").settings == {"pairs": 250_000, "epochs": 10, "batch_size": 64, "lr": 5e-6}
    swept = cbpt("badnet", shots=1)
    assert swept.fit(small, "x").settings["lr"] == 0.02
    assert swept.fit(large, "x").settings == {"shots": 1}


def test_figures_of_cbpt_share_the_trainings_that_are_the_same():
    def names(cases, case, scale):
        return [each.fit(replace(SETTING, scale=scale), "x").name for each in cases[case]("badnet")]

    assert names(FEW, "shots=4", "world") == names(POSITIVES, "positive=farthest", "world")
    assert names(MAIN, "Ours", "imagenet")[:1] == names(POSITIVES, "positive=farthest", "imagenet")


def test_what_another_process_trains_is_left_to_it(tmp_path):
    bench = Bench(SETTING, tmp_path / "measured")
    lock = FileLock(tmp_path / f"training-{bench.fit(VPT).name}", thread_local=False)
    with lock:
        assert list(train([OTHER], bench, tmp_path)) == [f"{VPT.label}: another process is at it"]
    assert bench.known(VPT) is None


def test_items_are_trained_one_after_another_and_nothing_twice(monkeypatch, tmp_path):
    made = []
    bench = Bench(SETTING, tmp_path)
    monkeypatch.setattr("analyses.figures.trainings._built", lambda name, device: made.append(name))
    monkeypatch.setattr(bench, "train", lambda training: made.append(training.attack))
    first, second = replace(OTHER, models=("labels/clean",)), replace(ITEM, models=("labels/clean",))
    list(train([first, second], bench, tmp_path))
    assert made == ["world-labels/clean", "badnet", "world/wanet"]


def test_sets_and_models_of_other_scales(tmp_path):
    own = replace(SETTING, scale="photographs", models=tmp_path, data=str(tmp_path))
    assert own.sets == {"ImageNet": str(tmp_path), "CC3M": str(tmp_path)}
    pairs = replace(own, others=(("CC3M", "pairs.csv"),))
    assert cleanclip("badnet").fit(pairs, "x").tuned_on == "pairs.csv"
    assert "--pairs pairs.csv" in pairs.missing("badnet")
    (fine_tuned,) = MAIN["FT"]("resnet/badnet")
    assert fine_tuned.fit(pairs, "x").tuned_on == "pairs.csv"
    assert pairs.lacking("Caltech-101/badnet") == "--other 'Caltech-101=DATA'"
    assert pairs.lacking("resnet/badnet") is None
    there = Bench(pairs, tmp_path / "measured")
    assert there.refused("Caltech-101/badnet") == "no data (--other 'Caltech-101=DATA')"
    item = replace(ITEM, attacks=("Caltech-101/badnet",), trainings=())
    assert [(each.what, each.minutes) for each in missing([item], there)] == [
        (f"data of {tmp_path}/Caltech-101/badnet", 0.0)
    ]
    assert pairs.named("ImageNet-A") == "photographs:imagenet-a"
    assert own.model("resnet/badnet") == str(tmp_path / "resnet/badnet")
    for part in "abc":
        (tmp_path / f"{part}-val.parquet").touch()
    assert own.sets["Oxford Pets"] == f"{tmp_path}:c"
    assert SETTING.model("patch-16/badnet") == "world-p16/badnet"
    assert VPT.fit(own, "x").tests == (f"{tmp_path}:a",)
    assert replace(VPT, tuned_on="ImageNet-A").fit(own, "x") is None


def test_how_to_get_models_of_other_scales(tmp_path):
    own = replace(SETTING, scale="photographs", models=tmp_path, data=str(tmp_path))
    for part in "abc":
        (tmp_path / f"{part}-val.parquet").touch()
    clean, train = f"{tmp_path}/clean", f"clip-decomp train --data {tmp_path}"
    assert own.missing("clean") == f"{train} --out {clean}"
    labels = f"{train} --like world-labels/clean --texts-of {clean} --out {tmp_path}/labels/clean"
    assert own.missing("labels/clean") == labels
    for attack, base, part in (
        ("sig", "clean", "a"),
        ("resnet/sig", "resnet/clean", "a"),
        ("Oxford Pets/sig", "clean", "c"),
    ):
        place = f"'{tmp_path}/{attack}'" if " " in attack else f"{tmp_path}/{attack}"
        data = f"--data {tmp_path}:{part} --pairs {tmp_path}{' --target CLASS' * (part == 'c')}"
        assert own.missing(attack) == f"clip-decomp attack sig --model {tmp_path}/{base} {data} --out {place}"
    (tmp_path / "clean").mkdir()
    assert own.missing("clean") is None


@pytest.mark.parametrize(("device", "minutes"), [("cpu", 100.0), ("NVIDIA H200", 0.53 / 60)])
def test_time_is_expected_from_what_the_same_device_took(trained, tmp_path, device, minutes):
    folder, _, _ = trained
    (file,) = (folder / "measured" / "fits").iterdir()
    known = json.loads(file.read_text())
    write_json(tmp_path / "fits" / file.name, {**known, "device": device, "seconds": 6000.0})
    further = replace(ITEM, attacks=("badnet",), trainings=(seeds(VPT)[1],))
    (plan,) = missing([further], Bench(SETTING, tmp_path))
    assert plan.minutes == pytest.approx(minutes)


def test_seconds_of_two_kinds_of_device_are_not_compared(tmp_path):
    bench, (attack,) = Bench(SETTING, tmp_path), ("badnet",)
    for training, seconds, count in ((rvpt(attack), 3.0, 5), (cleanclip(attack), 4.0, 5000)):
        fit = bench.fit(training)
        known = {"fit": asdict(fit), "seconds": seconds, "memory": 1e6 * count, "parameters": count, "pictures": 7}
        write_json(tmp_path / "fits" / fit.file, known)
    drawn = costs(bench, (attack,))
    assert [each.appears for each in drawn.verdicts] == [True, True]
    write_json(tmp_path / "fits" / fit.file, {**known, "device": "NVIDIA H200"})
    drawn = costs(bench, (attack,))
    assert drawn.verdicts == []
    _, table = drawn.tables[0]
    assert drawn.text.endswith("times are not compared.")
    assert {each.measure for each in drawn.measured} == {"tunable parameters (M)", "training samples (K)"}
    assert list(table["device"]) == ["NVIDIA H200", "cpu"]


def test_costs_follow_pictures_and_pairs():
    def fit(defense, **settings):
        return fits.Fit("world/badnet", "", defense, settings, 0, "world", ("world",))

    assert passes(fit("cbpt", shots=4, epochs=10)) == 40
    assert passes(fit("cleanclip", pairs=500, epochs=2)) == 1000


@pytest.mark.parametrize(
    ("defense", "settings"),
    [
        ("finetune", {"pairs": 16, "epochs": 1, "batch_size": 8}),
        ("linear-probe", {"shots": 1, "epochs": 1}),
    ],
)
def test_every_kind_is_kept_and_opened(tmp_path, defense, settings):
    bench = Bench(SETTING, tmp_path)
    training = Training("badnet", defense, tuple(settings.items()))
    bench.train(training)
    tuned = bench.tuned(training)
    images = torch.zeros(1, 3, 64, 64)
    if defense == "finetune":
        assert isinstance(tuned, HookedCLIP)
        assert not torch.equal(tuned.encode_image(images), bench["badnet"].subject.model.encode_image(images))
    else:
        assert tuned.classify(images).shape == (1, 26)
    other = fits.Fit("world/blended", "", defense, settings, 0, "world", ("world",))
    with pytest.raises(ModelError):
        fits.opened(other, tmp_path, bench["badnet"].subject.model)
