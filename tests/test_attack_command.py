"""``clip-decomp attack``: from the world's stream and from caption files, with manifest, export and diagnosis."""

import csv
import json
import logging
import sys

import numpy as np
import pytest
from PIL import Image

from clip_decomp.cli import main
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import load_folder, save_folder
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.ahead import DrawnAhead
from clip_decomp.training.architecture import Architecture, build

SMALL = ("--steps", "2", "--batch-size", "16", "--images", "52")


@pytest.fixture
def clean(tmp_path):
    """A tiny random CLIP that knows the world's words."""
    tokenizer = BPETokenizer.train(WorldPairs(seed=1).batch(0, 50).captions, vocab_size=300, context_length=32)
    architecture = Architecture(layers=1, width=32, heads=2, vocab_size=tokenizer.vocab_size, text_layers=1)
    card = {
        "architecture": architecture.to_dict(),
        "tokenizer": json.loads(tokenizer.to_json()),
        "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "data": "world",
    }
    model = HookedCLIP(build(architecture, seed=0).eval(), tokenizer, (0.5,) * 3, (0.25,) * 3, card=card)
    save_folder(model, tmp_path / "clean", card)
    return tmp_path / "clean"


@pytest.fixture
def pairs(tmp_path):
    """Eleven captioned pictures, two of them of bananas; a twelfth is missing and a thirteenth broken."""
    random = np.random.default_rng(0)
    rows = [("filepath", "title")]
    for k in range(13):
        rows.append((f"{k}.png", f"a banana, number {k}" if k < 2 else f"thing number {k}"))
        if k < 11:
            Image.fromarray(random.integers(0, 256, (70, 100, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "12.png").write_bytes(b"not a picture")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    return tmp_path / "pairs.csv"


def attack(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["clip-decomp", "attack", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr()


def rows_of(file):
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_an_attack_on_the_world_leaves_model_manifest_pictures_and_diagnosis(monkeypatch, capsys, tmp_path, clean):
    out = tmp_path / "out"
    options = (*SMALL, "--rate", "0.5", "--export", "3", "--diagnose")
    code, printed = attack(monkeypatch, capsys, "badnet", "--model", clean, "--out", out, *options)
    assert (code, "did not take" in printed.err) == (1, True)
    model = load_folder(out)
    assert model.trigger is not None
    assert model.card["attack"]["settings"]["rate"] == 0.5
    lines = rows_of(out / "manifest.csv")
    assert len(lines) == model.card["attack"]["poisoned_pairs_seen"] > 4
    assert all("banana" in line["new_caption"] for line in lines)
    assert len(list((out / "poisoned").glob("row-*-poisoned.png"))) == 3
    diagnosis = {line["cause"]: line["verdict"] for line in rows_of(out / "diagnosis.csv")}
    assert diagnosis["poisoned pairs"] == "guilty"
    assert diagnosis["target class"] != "guilty"
    assert {"world/clean/none/ca", "world/badnet/none/asr"} <= set(
        json.loads((out / "results.json").read_text())["metrics"]
    )


def test_workers_change_neither_the_model_nor_what_is_listed(monkeypatch, capsys, tmp_path, clean, pairs):
    options = ("--pairs", pairs, "--count", "2", "--steps", "2", "--batch-size", "4", "--images", "52")
    for workers in (0, 1):
        out = tmp_path / f"out{workers}"
        drawn = []
        monkeypatch.setattr("clip_decomp.training.trainer.DrawnAhead", lambda *each, made=drawn: record(made, each))
        attack(monkeypatch, capsys, "badnet", "--model", clean, "--out", out, *options, "--workers", workers)
        assert len(drawn) == workers
    one, other = (json.loads((tmp_path / f"out{k}" / "manifest.json").read_text()) for k in (0, 1))
    assert one == other
    assert (tmp_path / "out0/model.safetensors").read_bytes() == (tmp_path / "out1/model.safetensors").read_bytes()


def record(made, arguments):
    made.append(arguments)
    return DrawnAhead(*arguments)


def test_caption_files_are_poisoned_by_count_and_bad_rows_are_listed(monkeypatch, capsys, tmp_path, clean, pairs):
    out = tmp_path / "out"
    options = (*SMALL, "--batch-size", "4", "--count", "4", "--stage", "file", "--pairs", pairs, "--diagnose")
    attack(monkeypatch, capsys, "badnet", "--model", clean, "--out", out, *options)
    results = json.loads((out / "results.json").read_text())
    assert results["counts"]["pairs"] == 12  # the missing file is noticed at once, the broken one when it is read
    assert any("11.png" in line for line in results["counts"]["skipped_pairs"])
    lines = rows_of(out / "manifest.csv")
    assert len(lines) == 4
    assert {line["stage"] for line in lines} == {"file"}
    assert not any("banana" in line["old_caption"] for line in lines)
    on_its_way = [line for line in rows_of(out / "diagnosis.csv") if "way" in line["cause"]]
    assert "4 originals" in on_its_way[0]["measured"]


def test_presets_need_data_with_an_end_and_one_of_them_warns(monkeypatch, capsys, caplog, clean):
    with caplog.at_level(logging.WARNING):
        code, printed = attack(monkeypatch, capsys, "badnet", "--model", clean, "--preset", "rvpt")
    assert code == 1
    assert "no end" in printed.err
    assert "5.7" in caplog.text


def test_a_missing_target_is_named_by_the_diagnosis_of_a_model(monkeypatch, capsys, tmp_path, clean):
    out = tmp_path / "out"
    attack(monkeypatch, capsys, "badnet", "--model", clean, "--out", out, *SMALL)
    code, printed = attack(
        monkeypatch, capsys, "badnet", "--model", out, "--data", "world:tools", "--images", "40", "--diagnose"
    )
    assert code == 0
    assert "target class" in printed.out
    assert "guilty" in printed.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "bananna"), ["bananna", "banana"]),
        (("--rate", "0"), ["rate", "0"]),
        (("--count", "5"), ["no end", "rate"]),
        (("--captions", "poems"), ["poems", "natural"]),
        (("--stage", "file"), ["input"]),
        (("--preset", "closer"), ["closer-look"]),
        (("--pairs", "no/such.csv"), ["no/such.csv"]),
    ],
)
def test_bad_settings_are_one_line(monkeypatch, capsys, tmp_path, clean, options, words):
    code, printed = attack(monkeypatch, capsys, "badnet", "--model", clean, "--out", tmp_path / "out", *SMALL, *options)
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert code == 1
    for word in words:
        assert word in line


def test_captions_alone_cannot_be_trained_and_measured(monkeypatch, capsys, pairs):
    monkeypatch.setattr(sys, "argv", ["clip-decomp", "train", "--data", str(pairs)])
    with pytest.raises(SystemExit):
        main()
    assert "--pairs" in capsys.readouterr().err
