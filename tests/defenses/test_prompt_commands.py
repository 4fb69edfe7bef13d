"""``defend rvpt``, ``defend vpt``, ``bench rvpt`` and ``study`` from end to end, on a handful of pictures."""

import json
from functools import partial

import pytest

import clip_decomp
from analyses.study import metrics
from defenses import CBPT, RVPT, LinearProbe, stand_in, universal
from defenses.commands import bench

SMALL = ["--shots", "1", "--length", "2", "--epochs", "1", "--images", "52"]


@pytest.mark.parametrize("name", ["rvpt", "vpt"])
def test_a_defense_is_measured_before_and_after_and_kept(succeed, name, tmp_path):
    succeed("defend", name, "--model", "world/badnet", *SMALL, "--out", str(tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["metrics"]["world/badnet/none/asr"] > 0.8
    assert 0 <= found["metrics"][f"world/badnet/{name}/ca"] <= 1
    assert found["settings"]["alpha"] == (2.0 if name == "rvpt" else 0.0)
    assert found["settings"]["blocks"] == [2, 3, 4, 5, 6, 7]
    assert found["settings"]["parameters"] == 6 * 2 * 192
    assert found["counts"]["tuned"] == 26
    loaded = RVPT.load(tmp_path / "prompts", clip_decomp.load("world/badnet"))
    assert loaded.prompts_.length == 2


def test_a_linear_probe_from_the_command_line(succeed, tmp_path):
    few = ["--model", "world/badnet", "--images", "52", "--shots", "2", "--out", str(tmp_path)]
    succeed("defend", "linear-probe", *few, "--solver", "logistic")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["metrics"]["world/badnet/linear-probe/ca"] > 0.3
    assert found["settings"]["parameters"] == 26 * 129
    assert LinearProbe.load(tmp_path / "probe", clip_decomp.load("world/badnet")).solver == "logistic"


@pytest.fixture
def quick(monkeypatch):
    """Universal noise of few steps."""
    monkeypatch.setattr(universal, "ORDERS", 1)
    monkeypatch.setattr(universal, "BEYOND", ())
    few = partial(universal.Universal, batch_size=4, growth=3)
    monkeypatch.setattr(universal, "Universal", few)
    monkeypatch.setattr(stand_in, "Universal", few)


def test_cbpt_from_the_command_line_and_in_a_study(succeed, tmp_path, quick):
    few = ["--model", "world/badnet", "--images", "52", "--out", str(tmp_path)]
    succeed(
        "defend",
        "cbpt",
        *few,
        "--shots",
        "2",
        "--epochs",
        "2",
        "--warmup",
        "1",
        "--position",
        "middle",
        "--aim",
        "spider",
    )
    found = json.loads((tmp_path / "results.json").read_text())
    assert 0 <= found["metrics"]["world/badnet/cbpt/asr"] <= 1
    assert found["settings"]["parameters"] == 26 * 4 * 128
    assert (found["settings"]["position"], found["settings"]["aim"]) == ("middle", "spider")
    assert "inversion" not in found["settings"]
    assert CBPT.load(tmp_path / "prompts", clip_decomp.load("world/badnet")).aim == "spider"
    assert "no inner loop" in succeed("defend", "cbpt", *few, "--aim", "spider", "--steps", "1", code=1)
    assert "5 epochs of warm-up leave none of 5" in succeed("defend", "cbpt", *few, "--epochs", "5", code=1)
    vary = ["--vary", "shots=1", "--vary", "epochs=1", "--vary", "warmup=0", "--vary", "inversion-steps=1"]
    succeed("study", "cbpt", *few, *vary, "--seeds", "1")
    found = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert "world/badnet/cbpt/asr;epochs=1;inversion_steps=1;shots=1;warmup=0" in found
    assert "does not know" in succeed("study", "cbpt", *few, "--vary", "inversion-colour=1", code=1)


def test_aiming_at_a_suspect_brings_its_own_settings_unless_they_are_given(succeed, tmp_path, quick):
    few = ["--model", "world/badnet", "--images", "52", "--shots", "1", "--epochs", "1", "--warmup", "0"]

    def settings(*more):
        out = tmp_path / str(len(more))
        succeed("defend", "cbpt", *few, *more, "--out", str(out))
        found = json.loads((out / "results.json").read_text())["settings"]
        return {key: found.get(key) for key in ("words", "epochs", "lr", "weight_align", "inversion")}

    inner = {"steps": 1, "lr": 0.1, "norm": "linf", "positives": "farthest", "budget": 8 / 255}
    paper = {"words": None, "epochs": 1, "lr": 0.002, "weight_align": 0.4, "inversion": inner}
    assert settings("--steps", "1", "--norm", "linf") == paper
    aimed = {"words": "a photo of a", "lr": 0.02, "weight_align": 0.0, "inversion": None}
    assert settings("--aim", "banana") == {**paper, **aimed}
    given = ["--lr", "0.1", "--weight-align", "0.3"]
    assert settings("--aim", "banana", *given) == {**paper, **aimed, "lr": 0.1, "weight_align": 0.3}
    assert "no class 'bananna'" in succeed("defend", "cbpt", *few, "--aim", "bananna", code=1)


def test_rvpt_aimed_at_a_suspect_is_saved_and_read_as_one(succeed, tmp_path, quick):
    arguments = ["--model", "world/badnet", *SMALL, "--out", str(tmp_path), "--aim", "spider"]
    succeed("defend", "rvpt", *arguments)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["settings"]["rounds"] == 1
    assert "an aim in one or more, not in 0" in succeed("defend", "rvpt", *arguments, "--rounds", "0", code=1)
    assert (found["settings"]["aim"], found["settings"]["alpha"], found["settings"]["lr"]) == ("spider", -30, 0.001)
    read = RVPT.load(tmp_path / "prompts", clip_decomp.load("world/badnet"))
    assert (read.aim, read.alpha) == ("spider", -30)
    assert "alpha >= 0" in succeed("defend", "rvpt", *arguments[:-2], "--alpha", "-1", code=1)


def test_where_no_attack_is_known_universal_noise_stands_in_for_it(succeed, tmp_path, quick):
    few = ["--images", "52", "--shots", "1", "--epochs", "1", "--warmup", "0"]
    clean = ["defend", "cbpt", "--model", "world/clean", *few, "--out", str(tmp_path)]
    told = succeed(*clean, "--aim", "spider", "--force")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["settings"]["attack"]["name"] == "universal"
    assert (found["settings"]["target"], found["settings"]["aim"]) == ("spider", "spider")
    assert set(found["metrics"]) >= {"world/universal/none/asr", "world/universal/cbpt/asr", "world/universal/cbpt/ca"}
    assert "in place of a trigger" in told
    assert CBPT.load(tmp_path / "prompts", clip_decomp.load("world/clean")).aim == "spider"
    assert "with the --aim of" in " ".join(succeed(*clean, code=1).split())
    assert "no class 'spyder'" in succeed(*clean, "--aim", "spyder", code=1)
    assert "with --aim" in succeed(*clean, "--attack", "universal", code=1)
    assert "cannot be 'key'" in succeed(*clean, "--aim", "spider", "--target", "key", code=1)
    known = ["--model", "world/badnet", *few, "--out", str(tmp_path / "known")]
    succeed("defend", "cbpt", *known, "--attack", "universal", "--aim", "key", "--force")
    found = json.loads((tmp_path / "known" / "results.json").read_text())
    assert "world/universal/cbpt/asr" in found["metrics"]
    assert found["settings"]["target"] == "key"


def test_tuning_on_one_set_and_measuring_on_another(succeed, tmp_path):
    arguments = ["--data", "world:outlines", "--tune-on", "world", "--without-target", "--template", "##### {}"]
    succeed("defend", "rvpt", "--model", "world/badnet", *SMALL, *arguments, "--force", "--out", str(tmp_path))
    found = json.loads((tmp_path / "results.json").read_text())
    assert "world:outlines/badnet/rvpt/asr" in found["metrics"]
    assert found["settings"]["tuned_on"] == "world"
    assert found["settings"]["templates"] == ["##### {}"]
    assert found["settings"]["without"] == ["banana"]
    assert found["counts"]["tuned"] == 25


def test_bad_requests_fail_at_once(succeed, tmp_path):
    assert "shots" in succeed("defend", "rvpt", "--model", "world/badnet", "--shots", "0", code=1)
    study = ["study", "linear-probe", "--model", "world/badnet", "--without-target", "--out", str(tmp_path)]
    assert "keep the target" in succeed(*study, code=1)
    assert "8 blocks" in succeed("defend", "vpt", "--model", "world/badnet", *SMALL, "--depth", "9", code=1)


@pytest.mark.slow
def test_the_bench_compares_equal_losses(succeed, tmp_path):
    small = ["--batch-size", "2", "--length", "3", "--depth", "2", "--classes", "4", "--rounds", "1"]
    succeed("bench", "rvpt", *small, "--out", str(tmp_path))
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert metrics["synthetic/clean/none/rvpt-relative-loss-gap"] < 1e-5
    assert metrics["synthetic/clean/none/rvpt-step-speedup"] > 0


def test_the_parts_of_a_step_of_cbpt_are_measured_apart(monkeypatch, model):
    monkeypatch.setattr(bench, "_model", lambda seed, device: model)
    monkeypatch.setattr(bench, "_SIDE", 32)
    for seconds, memory in (
        *(bench._texts(3, recompute, 0, "cpu") for recompute in (0, 1)),
        bench._inner(2, 1, 0, "cpu"),
        bench._tuning(True, 1, 1, 0, "cpu"),
    ):
        assert seconds > 0
        assert memory >= 0


@pytest.mark.slow
def test_what_a_step_of_cbpt_costs_from_the_command_line(succeed, tmp_path):
    small = ["--classes", "4", "--batch-size", "2", "--steps", "1", "--shots", "1"]
    succeed("bench", "cbpt", *small, "--out", str(tmp_path))
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    assert metrics["synthetic/clean/none/cbpt-texts-seconds;classes=4;activations=kept"] > 0
    assert metrics["world/badnet/cbpt/tuning-speedup"] > 0


def test_a_study_goes_on_where_it_stopped(succeed, tmp_path):
    arguments = ["--model", "world/badnet", "--vary", "alpha=0,2", "--vary", "length=2", "--vary", "epochs=1"]
    arguments += ["--vary", "shots=1", "--images", "26", "--out", str(tmp_path)]
    succeed("study", "rvpt", *arguments, "--seeds", "1")
    first = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "fits").iterdir()}
    assert len(first) == 2
    succeed("study", "rvpt", *arguments, "--seeds", "2", "--test", "world", "--test", "world:hard")
    assert all((tmp_path / "fits" / name).stat().st_mtime_ns == when for name, when in first.items())
    metrics = json.loads((tmp_path / "results.json").read_text())["metrics"]
    swept = ";alpha=2;epochs=1;length=2;shots=1"
    assert f"world/badnet/rvpt/asr{swept}" in metrics
    assert f"world/badnet/rvpt/asr{swept}/std" in metrics
    assert metrics["world/badnet/none/asr/std"] == 0


def test_two_models_of_one_attack_are_told_apart():
    def fit(model, asr, template=None):
        before, after = ({"world": {"asr": value, "ca": 1.0, "pa": 0.0}} for value in (asr, asr / 2))
        about = {"model": model, "defense": "rvpt", "settings": {}, "tests": ["world"], "tuned_on": "world"}
        about |= {"template": template, "without_target": False}
        return {"fit": about, "attack": "badnet", "before": before, "after": after}

    found = metrics([fit("a", 1.0), fit("b", 0.5)])
    assert found["world/badnet/none/asr;model=a"] == 1.0
    assert found["world/badnet/rvpt/asr;model=b"] == 0.25
    found = metrics([fit("a", 1.0), fit("a", 0.5, "no {}")])
    assert found["world/badnet/none/asr"] == 1.0
    assert found["world/badnet/none/asr;template=no {}"] == 0.5


def test_a_study_names_what_it_does_not_know(succeed, tmp_path):
    assert "no study of 'rvtp'" in succeed("study", "rvtp", "--model", "world/badnet", "--out", str(tmp_path), code=1)
    base = ["study", "rvpt", "--model", "world/badnet", "--out", str(tmp_path)]
    assert "alpha=0,1,2" in succeed(*base, "--vary", "alpha", code=1)
    assert "does not know" in succeed(*base, "--vary", "lenght=3", code=1)
    assert "alpha >= 0" in succeed(*base, "--vary", "alpha=-1", code=1)
    assert "carries no attack" in succeed("study", "vpt", "--model", "world/clean", "--out", str(tmp_path), code=1)


def test_repelling_compares_a_label_only_tower_with_the_undefended_and_tuned_ones(succeed, tmp_path):
    for name in ("rvpt", "vpt"):
        succeed("defend", name, "--model", "world/badnet", *SMALL, "--out", str(tmp_path / name))
    prompts = [f"--{name}={tmp_path / name / 'prompts'}" for name in ("rvpt", "vpt")]
    arguments = [*prompts, "--labels-only", "world/clean", "--images", "26", "--out", str(tmp_path / "pr")]
    swapped = [f"--{name}={tmp_path / other / 'prompts'}" for name, other in (("rvpt", "vpt"), ("vpt", "rvpt"))]
    assert "not of RVPT" in succeed("repelling", "--model", "world/badnet", *swapped, *arguments[2:], code=1)
    assert "of 6 layers" in succeed("repelling", "--model", "world/badnet", *arguments)
    found = json.loads((tmp_path / "pr" / "results.json").read_text())["metrics"]
    for defense in ("labels-only", "none", "rvpt", "vpt"):
        assert -1 <= found[f"world/badnet/{defense}/pr;perturbation=badnet;token=class;layer=7"] <= 1
    assert 0 <= found["world/badnet/rvpt/pr-higher;perturbation=badnet"] <= 6
    assert "Does repelling" in (tmp_path / "pr" / "report.html").read_text()
    # Without prompts before them, the first blocks' features are the undefended ones'.
    key = "pr;perturbation=badnet;token=class;layer=1"
    assert found[f"world/badnet/rvpt/{key}"] == pytest.approx(found[f"world/badnet/none/{key}"], abs=1e-6)


def test_accuracy_under_adversarial_noise_is_compared(succeed, tmp_path):
    succeed("defend", "rvpt", "--model", "world/badnet", *SMALL, "--out", str(tmp_path / "rvpt"))
    prompts = ["--rvpt", str(tmp_path / "rvpt" / "prompts"), "--shots", "1", "--epochs", "1", "--steps", "1"]
    succeed("adversarial", "--model", "world/badnet", *prompts, "--images", "26", "--out", str(tmp_path / "pgd"))
    found = json.loads((tmp_path / "pgd" / "results.json").read_text())["metrics"]
    for defense in ("none", "rvpt", "advpt"):
        assert found[f"world/clean/{defense}/ca;attack=pgd"] < found[f"world/clean/{defense}/ca"]


@pytest.mark.parametrize("name", ["finetune", "cleanclip"])
def test_fine_tuning_from_the_command_line(succeed, name, tmp_path):
    few = ["--count", "32", "--epochs", "1", "--batch-size", "16", "--images", "26", "--out", str(tmp_path)]
    succeed("defend", name, "--model", "world/badnet", *few)
    found = json.loads((tmp_path / "results.json").read_text())
    assert 0 <= found["metrics"][f"world/badnet/{name}/asr"] <= 1
    assert found["counts"]["tuned"] == 32
    loaded = clip_decomp.load(tmp_path / "model")
    assert loaded.trigger is not None
    assert loaded.card["defense"]["name"] == name
    assert "no preset" in succeed("defend", name, "--model", "world/badnet", "--preset", "large", code=1)
