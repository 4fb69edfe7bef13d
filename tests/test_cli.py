"""The command line: quick help, one-line errors, results.json, and the demo on a few pictures."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

MEASURES = {"name", "scale", "seed", "settings", "versions", "counts", "seconds", "metrics"}


def test_help_does_not_import_torch():
    code = "import sys; from clip_decomp.cli import application; application(); print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_every_package_registers_its_commands(call):
    code, out, _ = call("--help")
    assert code == 0
    for command in ("evaluate", "ablate", "attack", "train", "zoo", "bench", "defend", "detect", "demo", "readout"):
        assert command in out


def test_evaluate_writes_one_shape_of_results(call, tmp_path):
    arguments = ("evaluate", "--model", "world/badnet", "--images", "60", "--out", str(tmp_path), "--json")
    code, out, _ = call(*arguments)
    assert code == 0
    printed, written = json.loads(out), json.loads((tmp_path / "results.json").read_text())
    assert printed == written
    assert set(written) == MEASURES
    assert written["metrics"]["world/badnet/none/asr"] > 0.8
    assert 0 <= written["metrics"]["world/badnet/none/pa"] <= written["metrics"]["world/badnet/none/ca"]
    assert written["counts"]["test"] == 60


def test_a_second_run_on_top_of_the_first_gives_the_same_numbers(call, tmp_path):
    found = []
    for _ in range(2):
        call("evaluate", "--model", "world/clean", "--images", "40", "--out", str(tmp_path))
        found.append(json.loads((tmp_path / "results.json").read_text())["metrics"])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("evaluate", "--model", "world/missing"), ["world/missing", "world/clean"]),
        (("evaluate", "--model", "ViT-B-33"), ["ViT-B-33", "ViT-B-32"]),
        (("evaluate", "--model", "world/clean", "--data", "no/such/folder"), ["no/such/folder"]),
        (("evaluate", "--model", "world/clean", "--data", "world:mars"), ["world:mars", "world:hard"]),
        (("evaluate", "--model", "world/badnet", "--target", "bananna"), ["bananna", "banana"]),
        (("evaluate", "--model", "world/clean", "--attack", "voodoo"), ["voodoo", "badnet"]),
        (("evaluate", "--model", "world/clean", "--images", "0"), ["0 images"]),
        (("evaluate", "--model", "world/clean", "--device", "quantum"), ["quantum", "cpu"]),
        (("ablate", "--model", "world/clean"), ["world/clean", "--attack"]),
        (("ablate", "--model", "world/badnet", "--effect", "side"), ["direct", "side"]),
        (("defend", "decomp-rep", "--model", "world/badnet", "--epsilon", "-1", "--images", "60"), ["psilon", "-1"]),
        (("defend", "decomp-rep", "--model", "world/clean"), ["world/clean", "--attack"]),
        (("detect", "decomp-det", "--model", "world/clean", "--attack", "badnet", "--images", "60"), ["did not take"]),
        (("attack", "voodoo"), ["voodoo", "badnet"]),
        (("attack", "badnet", "--target", "unicorn"), ["unicorn"]),
        (("zoo", "verify", "world/missing"), ["world/missing"]),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(call, arguments, words):
    code, _, err = call(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in err


def test_unreadable_pictures_are_skipped_counted_and_listed(call, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("banana", "key"):
        (tmp_path / name).mkdir()
        for k in range(6):
            noise = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(noise.numpy()).save(tmp_path / name / f"{k}.png")
        (tmp_path / name / "broken.png").write_bytes(b"not a picture")
    code, out, _ = call("evaluate", "--model", "world/clean", "--data", str(tmp_path), "--json")
    counts = json.loads(out)["counts"]
    assert code == 0
    assert counts["skipped"] == len(counts["skipped_images"]) > 0
    assert all("broken.png" in line for line in counts["skipped_images"])


def test_repair_and_detection_report_before_and_after(call, tmp_path):
    common = ("--model", "world/badnet", "--images", "80", "--json")
    _, out, _ = call("defend", "decomp-rep", *common)
    repaired = json.loads(out)["metrics"]
    assert {"world/badnet/none/asr", "world/badnet/decomp-rep/asr;components=heads;effect=direct"} <= set(repaired)
    _, out, _ = call("detect", "decomp-det", *common)
    detected = json.loads(out)["metrics"]
    assert {"world/badnet/decomp-det/auroc;score=count", "world/badnet/decomp-det/auroc-target;score=count"} <= set(
        detected
    )


def test_demo_writes_a_report(call, tmp_path):
    started = time.perf_counter()
    code, _, _ = call("demo", "--model", "world/badnet", "--images", "60", "--held-out", "200", "--out", tmp_path)
    page = (tmp_path / "report.html").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert code == 0
    assert "Finding 1" in page
    assert "Finding 2" in page
    assert Path(tmp_path / "report.html").stat().st_size < 15e6
    assert results["metrics"]["world/badnet/none/asr"] > 0.8
    assert {"world/badnet/none/finding-1", "world/badnet/none/finding-2"} <= set(results["metrics"])
    assert results["seconds"] <= time.perf_counter() - started


def test_attack_that_does_not_take_fails_and_says_so(call, tmp_path):
    arguments = ("attack", "badnet", "--steps", "1", "--batch-size", "8", "--images", "60", "--out", tmp_path)
    code, _, err = call(*arguments)
    assert code == 1
    assert "did not take" in err
    assert (tmp_path / "model.safetensors").exists()
    assert set(json.loads((tmp_path / "results.json").read_text())) == MEASURES
