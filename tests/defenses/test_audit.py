"""The audit: a planted shortcut is found, scans go on, and every class's cost is what it is said to be."""

import json

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from clip_decomp.cli.run import Model
from clip_decomp.cli.weights import offer
from clip_decomp.data.unlabelled import open_unlabelled, read_class_names
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.zeroshot import class_vectors
from defenses.audit import Audit, Scan
from defenses.carriers import carriers
from defenses.commands.audit import bound, remedy, verdict
from defenses.universal import Universal

from .shortcut import NAMES, PLANTED

FAST = {"batch_size": 6, "growth": 1.3, "bf16": False, "progress": False}


def test_a_planted_shortcut_is_the_cheapest_class_and_its_trigger_is_found(planted, pixels, unchanged):
    check = unchanged(planted.clip)
    found = Audit(**FAST).scan(planted, pixels, NAMES)
    assert check()
    assert found.ranking[0] == PLANTED
    assert found.score == found.scores[PLANTED] > 1.5
    assert found.pictures == (16, 8)
    assert found.shares[PLANTED] == 1
    noise = found.triggers[PLANTED] / torch.tensor(planted.std)[:, None, None]
    assert (noise * planted.pattern).sum() / noise.norm() > 0.5


def test_costs_are_the_noises_own_size_and_shares_those_of_other_pictures(planted, pixels):
    found = Audit(**FAST).scan(planted, pixels, NAMES)
    reached = found.costs < 0.06
    assert reached.any()
    sizes = found.triggers.square().mean((1, 2, 3)).sqrt()
    assert (sizes[reached] <= found.costs[reached] * 1.001).all()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    others, vectors = pixels[order[16:]], class_vectors(planted, NAMES)

    def given(each):
        return (planted.encode_image(planted.normalize(each.clamp(0, 1))) @ vectors.T).argmax(1)

    for label in range(len(NAMES)):
        foreign = others[given(others) != label]
        share = (given(foreign + found.triggers[label]) == label).float().mean()
        assert share == pytest.approx(found.shares[label].item())


def test_scores_compare_a_class_with_three_quarters_of_the_others():
    costs = torch.tensor([0.01, 0.04, 0.05, 0.06, 0.08])
    found = Scan(NAMES, costs, torch.tensor([1.0, 0.5, 0.5, 0.9, 0.1]), torch.zeros(5, 3, 2, 2), (16, 8), 0.08)
    assert found.scores.tolist() == pytest.approx([4, 0.25, 0.2, 1 / 6, 0.125])
    assert found.ranking.tolist() == [0, 1, 2, 3, 4]
    same = Scan(NAMES, torch.full((5,), 0.06), torch.tensor([0.1, 0.5, 0.2, 0.9, 0.3]), found.triggers, (16, 8), 0.06)
    assert same.score == 1
    assert same.ranking.tolist() == [3, 1, 4, 2, 0]


def test_an_interrupted_scan_goes_on_to_the_same_numbers(planted, pixels, tmp_path, monkeypatch):
    pushed, calls, stops = Universal.noises, [], []

    def counted(self, *arguments):
        calls.append(1)
        if len(calls) in stops:
            raise KeyboardInterrupt
        return pushed(self, *arguments)

    monkeypatch.setattr(Universal, "noises", counted)
    whole = Audit(**FAST).scan(planted, pixels, NAMES)
    straight = len(calls)
    stops.append(straight + 3)
    kept = Audit(**FAST, checkpoint=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        kept.scan(planted, pixels, NAMES)
    again = kept.scan(planted, pixels, NAMES)
    assert len(calls) == 2 * straight + 1  # but for the one that was interrupted, no class was scanned twice
    assert torch.equal(again.costs, whole.costs)
    assert torch.equal(again.triggers, whole.triggers)
    with pytest.raises(SettingError, match="another run"):
        kept.scan(planted, pixels.flip(0), NAMES)


@pytest.mark.parametrize("change", ["few", "classes", "range", "nan"])
def test_pictures_that_an_audit_cannot_work_with(model, pixels, change):
    names = NAMES[:2] if change == "classes" else NAMES
    pixels = {"few": pixels[:9], "range": pixels * 3, "nan": pixels * torch.nan}.get(change, pixels)
    with pytest.raises(DataError, match=r"16 pictures and 3 classes or more|finite pixel values in 0\.\.1"):
        Audit(**FAST).scan(model, pixels, names)


@pytest.mark.parametrize("change", [{"lowest": 0}, {"growth": 1}, {"goal": 2}, {"lr": 0}, {"batch_size": 0}])
def test_settings_out_of_range(change):
    with pytest.raises(SettingError, match="Universal noise needs"):
        Audit(**change)


def test_shares_of_the_carriers_add_up_to_the_change_of_the_representation(model, pixels):
    direction = torch.randn(24, generator=torch.Generator().manual_seed(1))
    after = (pixels + 0.1).clamp(0, 1)
    found = carriers(model, pixels, after, direction)
    assert len(found) == 3 * 4 + 3 + 2
    change = (model.encode_image(model.normalize(after)) - model.encode_image(model.normalize(pixels))).mean(0)
    assert sum(each.change for each in found) == pytest.approx((change @ direction / direction.norm()).item(), abs=1e-5)
    assert sum(each.share for each in found) == pytest.approx(1, abs=1e-4)
    sizes = [abs(each.change) for each in found]
    assert sizes == sorted(sizes, reverse=True)


def test_a_resnet_has_no_carriers(tokenizer, pixels):
    sizes = Architecture(
        layers=(1, 1, 1, 1), width=8, heads=4, vocab_size=tokenizer.vocab_size, context_length=tokenizer.context_length
    )
    resnet = HookedCLIP(build(sizes, seed=0).eval(), tokenizer, (0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ModelError, match="no sum of heads"):
        carriers(resnet, pixels, pixels, torch.ones(128))


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures in no order, one of them broken, and a list of classes."""
    place = tmp_path / "pictures"
    (place / "deep").mkdir(parents=True)
    for k in range(20):
        pixels = torch.randint(256, (40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(k))
        Image.fromarray(pixels.numpy()).save(place / ("deep" if k % 2 else ".") / f"{k}.png")
    (place / "broken.png").write_bytes(b"no picture")
    (tmp_path / "classes.txt").write_text("banana\nkey\n\n spider \ncat\n")
    return place


def test_unlabelled_pictures_are_those_that_can_be_read(folder):
    found = open_unlabelled(str(folder), 16)
    assert found.pixels.shape == (20, 3, 16, 16)
    assert found.class_names is None
    assert len(found.skipped) == 1
    assert "broken.png" in found.skipped[0]
    assert len(open_unlabelled(str(folder), 16, count=5).pixels) == 4  # the first is broken
    with pytest.raises(DataError, match="ask for one or more"):
        open_unlabelled(str(folder), 16, count=0)


def test_class_names_of_a_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("fir tree\n\n  pear \n")
    assert read_class_names(file) == ("fir tree", "pear")
    file.write_text("pear\npear\n")
    with pytest.raises(DataError, match="must differ"):
        read_class_names(file)
    with pytest.raises(DataError, match="not a readable list"):
        read_class_names(tmp_path / "none.txt")


def test_the_verdict_never_says_that_a_model_is_clean():
    assert verdict([]) == "nothing found"
    assert verdict(["banana", "key"]) == "suspicious: banana, key"


def test_what_takes_a_suspect_out_depends_on_the_tower(model, make_clip, tokenizer):
    told = "--model 'my runs/tiny' --aim 'ice cream' --data LABELLED_PICTURES --out runs/fixed"
    assert remedy(model, "my runs/tiny", "ice cream") == f"clip-decomp defend rvpt {told}"
    pool = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5, "output_tokens": True}
    pooled = HookedCLIP(make_clip(**pool), tokenizer, model.mean, model.std, "tiny")
    assert remedy(pooled, "my runs/tiny", "ice cream") == f"clip-decomp defend cbpt {told}"


def test_what_takes_a_suspect_out_names_the_same_weights(model):
    app, tiny, shown = typer.Typer(), model, []

    @app.command()
    def show(model: Model) -> None:
        shown.append(remedy(tiny, model, "key"))

    offer(app)
    CliRunner().invoke(app, ["--model", "tiny", "--pretrained", "w.pt", "--quick-gelu"], catch_exceptions=False)
    told = "--model tiny --pretrained w.pt --quick-gelu --aim key"
    assert shown == [f"clip-decomp defend rvpt {told} --data LABELLED_PICTURES --out runs/fixed"]


def test_thresholds_say_what_is_known_of_them():
    assert bound(1.54, 6, False) == "1.54, the largest of 6 clean: 1 in 7 further ones of the kind lies beyond it"
    assert bound(2, 0, True) == "2.00"
    assert "tiny CLIPs of the embedded world alone" in bound(1.7, 0, False)


def test_a_class_that_all_pictures_are_taken_for_is_told_apart_from_one_that_is_out_of_reach(
    planted, pixels, tmp_path, monkeypatch
):
    given = Audit._given

    def taken(self, model, some, vectors):
        return torch.full((len(some),), 2) if len(some) == len(pixels) else given(self, model, some, vectors)

    monkeypatch.setattr(Audit, "_given", taken)
    found, again = (Audit(**FAST, checkpoint=tmp_path).scan(planted, pixels, NAMES) for _ in range(2))
    assert found.unscanned == again.unscanned == ("plum",)
    assert (found.scores[2], found.ranking[-1]) == (0, 2)
    assert torch.equal(found.triggers, again.triggers)
    rest = [0, 1, 3, 4]
    names = tuple(NAMES[each] for each in rest)
    fewer = Scan(names, found.costs[rest], found.shares[rest], found.triggers[rest], found.pictures, found.highest)
    assert torch.equal(fewer.scores, found.scores[rest])
    log = tmp_path / "checkpoint.json"
    log.write_text(log.read_text().replace('"kept": "by class"', '"other": 1'))  # as an earlier version kept it
    with pytest.raises(SettingError, match="another run"):
        Audit(**FAST, checkpoint=tmp_path).scan(planted, pixels, NAMES)
    log.write_text(log.read_text().replace('"other": 1', '"kept": "by class"'))
    (tmp_path / "class-1.safetensors").unlink()
    with pytest.raises(SettingError, match=r"class-1\.safetensors is missing"):
        Audit(**FAST, checkpoint=tmp_path).scan(planted, pixels, NAMES)


def test_an_audit_from_the_command_line(folder, tmp_path, succeed):
    model = ["audit", "--model", "world/badnet"]
    out, classes = tmp_path / "out", ["--classes", str(tmp_path / "classes.txt")]
    images = ["--images", str(folder)]
    succeed(*model, *images, *classes, "--threshold", "0.01", "--out", str(out))
    found = json.loads((out / "results.json").read_text())
    assert found["settings"]["verdict"].startswith("suspicious: ")
    assert sorted(found["settings"]["suspicious"]) == ["cat", "key", "spider"]
    assert found["settings"]["unscanned"] == ["banana"]
    assert found["counts"] | {"made_on": 13, "tried_on": 7, "classes": 4, "skipped": 1} == found["counts"]
    assert 0 < found["metrics"]["pictures/badnet/none/audit-cost;class=spider"] <= 0.06
    assert not any("banana" in name for name in found["metrics"])
    page = (out / "report.html").read_text()
    assert "What carries it" in page
    assert "not proof" in page
    assert "suspicious beyond 0.01." in page
    assert "Not scanned: banana: nearly all pictures are taken for it as they are" in page
    suspect = found["settings"]["suspicious"][0]
    assert f"clip-decomp defend rvpt --model world/badnet --aim {suspect} --data LABELLED_PICTURES --out runs" in page
    again = succeed(*model, *images, *classes, "--threshold", "99", "--out", str(out))
    assert "nothing found" in again
    assert "--aim" not in again
    assert "more than 0" in succeed(*model, *images, "--threshold", "0", code=1)
    assert "not both" in succeed(*model, *images, "--threshold", "1", "--clean", "world/clean", code=1)
