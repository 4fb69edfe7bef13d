"""``decompose`` and ``textspan --store``: results, resumption, and one-line errors."""

import json
import shutil

import pytest
import torch

import clip_decomp
from clip_decomp.data.images import to_pil
from clip_decomp.methods.textspan import textspan
from clip_decomp.moments import collect_statistics
from clip_decomp.texts import encode_pool, read_pool

FEW = ("decompose", "--model", "world/badnet", "--images", "40", "--shard-size", "16", "--batch-size", "8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A store of 40 pictures of the world; tests must not change it."""
    from clip_decomp.store import write_store

    data = clip_decomp.open_data("world", 64, test=40)
    folder = tmp_path_factory.mktemp("written")
    return write_store(clip_decomp.load("world/badnet"), data.test, folder, shard_size=16, batch_size=8).store


def test_decompose_writes_a_store_and_results(call, tmp_path, written, contents):
    code, out, _ = call(*FEW, "--out", str(tmp_path), "--json")
    assert code == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert json.loads(out) == results
    assert contents(tmp_path) == contents(written.folder)
    assert (results["name"], results["scale"], results["settings"]["attack"]) == ("decompose", "world", None)
    assert results["counts"]["images"] == 40
    assert results["counts"]["shards"] == 3
    assert results["counts"]["bytes"] == written.n_bytes
    metrics = results["metrics"]
    assert metrics["world/clean/none/bytes-per-image"] == pytest.approx(written.shard_bytes / 40, abs=1e-3)
    assert metrics["world/clean/none/bytes-of-reference"] < 1 / 8 + 2500 * 3 / 40 / (4 * 128 * 105)
    assert metrics["world/clean/none/images-per-second"] > 0
    code, out, _ = call(*FEW, "--out", str(tmp_path))
    assert code == 0
    assert "complete already" in out
    code, out, _ = call(*FEW, "--out", str(tmp_path), "--json")
    assert "world/clean/none/images-per-second" not in json.loads(out)["metrics"]
    assert contents(tmp_path) == contents(written.folder)


def test_triggered_pictures_make_another_store(call, tmp_path, written):
    arguments = (*FEW, "--attack", "badnet", "--dtype", "fp32", "--convention", "paper", "--out", str(tmp_path))
    code, out, _ = call(*arguments, "--json")
    assert code == 0
    assert "world/badnet/none/bytes-per-image" in json.loads(out)["metrics"]
    store = clip_decomp.open_store(tmp_path)
    assert store.plan.settings["attack"]["name"] == "badnet"
    assert (store.convention.name, store.plan.settings["dtype"]) == ("paper", "fp32")
    assert not torch.equal(store.norm, written.norm)


@pytest.fixture
def folder(tmp_path):
    """Two classes of six pictures, one of them broken."""
    generator = torch.Generator().manual_seed(0)
    for name in ("dog", "key"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(6):
            pixels = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=generator)
            to_pil(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    (tmp_path / "pictures" / "key" / "3.png").write_bytes(b"not a picture")
    return tmp_path / "pictures"


@pytest.mark.parametrize(("part", "images"), [((), 11), (("--part", "test"), 9), (("--part", "held-out"), 2)])
def test_all_pictures_of_a_folder_unless_a_part_is_named(part, images, call, folder, tmp_path):
    arguments = ("decompose", "--model", "world/clean", "--data", str(folder), "--attack", "blended")
    code, out, err = call(*arguments, *part, "--out", str(tmp_path / "store"), "--json")
    assert code == 0, err
    counts = json.loads(out)["counts"]
    store = clip_decomp.open_store(tmp_path / "store")
    assert len(store) == counts["images"]
    assert counts["images"] + counts["skipped"] == images + (not part) + (part == ("--part", "test"))
    assert all("3.png" in line for line in counts["skipped_images"])
    if not part:
        assert counts["skipped"] == 1
        assert store.indices.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
        assert store.class_names == ("dog", "key")


def test_texts_of_a_store_are_those_of_its_pictures(call, tmp_path, written):
    file = tmp_path / "texts.txt"
    words = ("banana", "key", "house", "red thing", "fork", "small circle")
    file.write_text("".join(f"a photo of a {name}\n" for name in words))
    arguments = ("textspan", "--store", str(written.folder), "--texts", str(file), "--n-texts", "3", "--rank", "10")
    code, out, _ = call(*arguments, "--layers", "4,-1", "--out", str(tmp_path), "--json")
    assert code == 0
    results = json.loads(out)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert len(results["metrics"]) == 24
    model, data = clip_decomp.load("world/badnet"), clip_decomp.open_data("world", 64, test=40)
    pool, live = read_pool(file), collect_statistics(model, data.test, batch_size=8)
    found = textspan(live.head(4, 2), encode_pool(model, pool), 3, 10, pool.texts)
    explained = results["metrics"]["world/clean/none/explained-variance;component=L4H2"]
    assert explained == pytest.approx(float(found.explained_variance_ratio.sum()), abs=1e-4)
    page = (tmp_path / "report.html").read_text()
    assert found.texts[0] in page
    code, out, _ = call(*arguments)
    assert (code, "a photo of" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*FEW, "--dtype", "int4"), ["int4", "fp16"]),
        ((*FEW, "--part", "middle"), ["middle", "held-out"]),
        ((*FEW, "--part", "train"), ["train"]),
        ((*FEW, "--shard-size", "0"), ["shard size", "0"]),
        ((*FEW, "--attack", "voodoo"), ["voodoo", "badnet"]),
        (("textspan",), ["--model", "--store"]),
        (("textspan", "--store", "no/such/store"), ["no/such/store", "decompose"]),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(call, tmp_path, arguments, words):
    if arguments[0] == "decompose":
        arguments = (*arguments, "--out", str(tmp_path / "store"))
    code, _, err = call(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "store").exists()


def test_stores_of_others_are_refused(call, tmp_path, written):
    store = ("--store", str(written.folder))
    code, _, err = call("textspan", *store, "--model", "world/clean")
    assert code == 1
    assert "other weights (world/badnet" in err
    code, _, err = call("textspan", *store, "--images", "20")
    assert code == 1
    assert "leave --images out" in err
    shutil.copytree(written.folder, tmp_path / "copy")
    code, _, err = call(*FEW, "--model", "world/clean", "--out", str(tmp_path / "copy"))
    assert code == 1
    assert "model is world/badnet" in err
    assert "world/clean" in err
