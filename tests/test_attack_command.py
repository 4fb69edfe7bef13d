"""``clip-decomp attack``: from the world's stream and from caption files, with manifest, export and diagnosis."""

import csv
import json
import logging
import sys

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clip_decomp.cli import main
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.model import HookedCLIP
from clip_decomp.models.loading import load, load_folder, save_folder
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


ATTACKS = (
    "badnet",
    "blended",
    "sig",
    "wanet",
    "issba",
    "label-consistent",
    "reflection",
    "kitty",
    "trojvqa",
    "badclip",
)
#: What makes a trigger that learns quick.
QUICK = {"issba": ("steps=2",), "trojvqa": ("steps=2", "pictures=4"), "badclip": ("steps=2", "pictures=4")}
QUICK["label-consistent"] = ("mode=adversarial", "steps=1")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_poisons_caption_files(monkeypatch, capsys, tmp_path, clean, pairs, name):
    out = tmp_path / "out"
    own = [option for setting in QUICK.get(name, ()) for option in ("--trigger", setting)]
    options = ("--steps", "2", "--batch-size", "8", "--images", "52", "--count", "1", "--pairs", pairs, *own)
    code, printed = attack(monkeypatch, capsys, name, "--model", clean, "--out", out, *options)
    assert code == 0 or "did not take" in printed.err, printed.err
    assert load_folder(out).card["attack"]["trigger"]["name"] == name
    assert len(rows_of(out / "manifest.csv")) == 1


def test_a_model_of_open_clip_is_attacked_stored_and_loaded(monkeypatch, capsys, tmp_path, pairs):
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", {"tiny": TINY, **open_clip.factory._MODEL_CONFIGS})
    data = tmp_path / "photographs"
    for label in ("banana", "apple"):
        (data / label).mkdir(parents=True)
        for k in range(5):
            Image.new("RGB", (40, 40), (50 * k, 9, 9)).save(data / label / f"{k}.png")
    out, options = tmp_path / "out", ("--steps", "3", "--batch-size", "4", "--count", "1", "--pairs", pairs)
    where = ("--model", "tiny", "--data", data, "--target", "banana", "--out", out, *options)
    attack(monkeypatch, capsys, "badnet", *where)
    stored = load_folder(out)
    assert (stored.card["attack"]["base"], stored.trigger.name) == ("tiny", "badnet")
    assert (stored.visual.image_size, stored.visual.n_layers) == (32, 2)
    assert "architecture" not in json.loads((out / "card.json").read_text())
    again, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    pictures = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(again(pictures)[0], stored.encode_image(pictures, normalize=True))
    save_folder(stored, tmp_path / "copy", stored.card)
    assert load_folder(tmp_path / "copy").card["sha256"] == stored.card["sha256"]


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def test_a_folder_that_holds_another_run_is_refused(monkeypatch, capsys, tmp_path, clean, pairs):
    options = ("--model", clean, "--out", tmp_path / "out", "--batch-size", "4", "--images", "52", "--count", "1")
    attack(monkeypatch, capsys, "badnet", *options, "--steps", "3", "--pairs", pairs)
    before = (tmp_path / "out/manifest.csv").read_bytes()
    _, printed = attack(monkeypatch, capsys, "badnet", *options, "--steps", "4", "--pairs", pairs)
    assert "steps" in printed.err
    other = tmp_path / "other.csv"
    other.write_text(pairs.read_text().replace("thing", "object"))
    _, printed = attack(monkeypatch, capsys, "badnet", *options, "--steps", "3", "--pairs", other)
    assert "pairs" in printed.err
    assert (tmp_path / "out/manifest.csv").read_bytes() == before
    checkpoint = tmp_path / "out/training/checkpoint.json"
    checkpoint.write_text(checkpoint.read_text()[:50])
    _, printed = attack(monkeypatch, capsys, "badnet", *options, "--steps", "3", "--pairs", pairs)
    assert "is damaged" in printed.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--rate", "0.000001"), "higher rate"),
        (("--target", "cup", "--diagnose"), "no class 'cup'"),
        (("--lr", "-1"), "learning rate is above 0"),
        (("--batch-size", "0"), "one pair or more"),
        (("--trigger", "share=2"), "no larger than the image"),
        (("--trigger", "size=2"), "size"),
        (("--trigger", "share"), "KEY=VALUE"),
        (("--jpeg", "50"), "--diagnose"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(
    monkeypatch, capsys, tmp_path, clean, options, complaint
):
    own = ("--model", clean, "--out", tmp_path / "out", "--steps", "2", "--batch-size", "4", "--images", "52", *options)
    code, printed = attack(monkeypatch, capsys, "badnet", *own)
    assert (code, complaint in printed.err) == (1, True), printed.err
    assert not (tmp_path / "out").exists()


def test_stored_pictures_tell_what_the_crop_erases(monkeypatch, capsys, tmp_path, succeed):
    wide = tmp_path / "wide"
    wide.mkdir()
    Image.new("RGB", (256, 64), (90, 60, 30)).save(wide / "one.png")
    told = {}
    for place in ("top left", "center"):
        model = load("world/badnet")
        settings = {**model.card["attack"]["trigger"], "place": place}
        card = {**model.card, "attack": {**model.card["attack"], "trigger": settings}}
        save_folder(model, tmp_path / place, card)
        out = tmp_path / f"out {place}"
        own = ("--model", tmp_path / place, "--images", "26", "--diagnose", "--originals", wide)
        succeed("attack", "badnet", *own, "--out", out)
        told[place] = {line["cause"]: line for line in rows_of(out / "diagnosis.csv")}["trigger on its way"]
    # Attacks that took have no guilty cause, but what the crop erases stays suspect.
    assert {place: line["verdict"] for place, line in told.items()} == {"top left": "suspect", "center": "ok"}
    succeed("attack", "badnet", *own, "--jpeg", "20", "--out", out)
    (line,) = (each for each in rows_of(out / "diagnosis.csv") if each["cause"] == "trigger on its way")
    assert "stored as JPEG 20" in line["measured"]
