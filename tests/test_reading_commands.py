"""The reading methods' commands: results, pages, and one-line errors."""

import json
import os

import pytest

from clip_decomp.cli.bench.timing import alone, peak_memory

FEW = ("--model", "world/badnet", "--images", "80")


@pytest.mark.parametrize(
    ("arguments", "keys", "words"),
    [
        (
            ("textspan", *FEW, "--n-texts", "4", "--rank", "10"),
            ["world/badnet/none/text-similarity;component=L7H3", "world/badnet/none/role-changed;component=L7H11"],
            ["Texts of heads", "L7H0", "role kept"],
        ),
        (
            ("mmd", *FEW, "--permutations", "19"),
            ["world/badnet/none/mmd;component=L4H2", "world/badnet/none/mmd;component=L7;kind=mlps"],
            ["squared MMD", "L4H2"],
        ),
        (
            ("resistivity", *FEW),
            [
                "world/badnet/none/pr;perturbation=badnet;token=class;layer=7",
                "world/badnet/none/pr;perturbation=gaussian-noise;token=class;layer=0",
            ],
            ["Perturbation resistivity", "trigger: badnet"],
        ),
        (("tsne", *FEW), [], ["t-SNE", "banana"]),
    ],
    ids=["textspan", "mmd", "resistivity", "tsne"],
)
def test_commands_write_results_and_a_page(arguments, keys, words, call, tmp_path):
    code, out, _ = call(*arguments, "--out", str(tmp_path), "--json")
    assert code == 0
    written = json.loads((tmp_path / "results.json").read_text())
    assert json.loads(out) == written
    assert written["metrics"]
    for key in keys:
        assert key in written["metrics"]
    page = (tmp_path / "report.html").read_text()
    for word in words:
        assert word in page
    assert written["counts"]["test"] == 80


def test_the_head_that_catches_the_patch_moves_most(call):
    _, out, _ = call("mmd", *FEW, "--permutations", "0", "--json")
    found = {key: value for key, value in json.loads(out)["metrics"].items() if "H" in key.split("component=")[1]}
    assert max(found, key=lambda key: found[key]) == "world/badnet/none/mmd;component=L4H2"


def test_texts_may_come_from_a_file(call, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"a photo of a {name}\n" for name in ("banana", "key", "house", "red thing", "fork")))
    arguments = ("textspan", *FEW, "--texts", str(file), "--n-texts", "3", "--rank", "10")
    code, out, _ = call(*arguments)
    assert code == 0
    assert "a photo of" in out
    assert "class (" not in out  # texts of a file have no property but "text"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("textspan", *FEW, "--texts", "no/such/file"), ["no/such/file"]),
        (("textspan", *FEW, "--layers", "8"), ["layer 8", "0 to 7"]),
        (("textspan", *FEW, "--layers", "last"), ["last"]),
        (("textspan", "--model", "world/badnet", "--images", "6"), ["6 pictures", "8 parts"]),
        (("textspan", "--model", "world/badnet", "--images", "16"), ["8 images", "rank 16"]),
        (("textspan", "--model", "world/clean", "--images", "40"), ["--attack"]),
        (("mmd", *FEW, "--sigma", "wide"), ["wide", "median"]),
        (("mmd", *FEW, "--sigma", "-1"), ["-1"]),
        (("mmd", *FEW, "--estimator", "rough"), ["rough", "biased"]),
        (("mmd", "--model", "world/clean", "--images", "40"), ["--attack"]),
        (("tsne", "--model", "world/badnet", "--images", "20"), ["perplexity"]),
        (("tsne", "--model", "world/clean"), ["--attack"]),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(call, arguments, words):
    code, _, err = call(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]


def test_benches_compare_with_the_published_algorithms(call):
    small = ("--images", "300", "--width", "32", "--json")
    _, out, _ = call("bench", "textspan", *small, "--d-head", "8", "--candidates", "60")
    found = json.loads(out)["metrics"]
    assert found["synthetic/clean/none/textspan-same-choices;of=array"] == 1
    assert found["synthetic/clean/none/textspan-same-choices;of=head"] == 1
    shape = ("--layers", "3", "--heads", "2", "--d-head", "8", "--classes", "5", "--looped-images", "60")
    _, out, _ = call("bench", "ablation", *small, *shape)
    assert json.loads(out)["metrics"]["synthetic/clean/none/sweep-difference"] == 0
    _, out, _ = call("bench", "mmd", "--images", "50", "--heads", "2", "--d-head", "8", "--json")
    assert json.loads(out)["metrics"]["synthetic/clean/none/mmd-seconds"] > 0


@pytest.mark.parametrize("tokens", [(), ("--tokens", "--texts", "3")], ids=["heads", "tokens"])
def test_the_bench_of_decompositions_takes_pairs_of_runs(tokens, call):
    small = ("--model", "world/clean", "--batch-size", "2", "--rounds", "2", "--no-memory", "--json")
    _, out, _ = call("bench", "decompose", *small, *tokens)
    found = json.loads(out)
    speeds = [found["metrics"][f"synthetic/clean/none/images-per-second;of={of}"] for of in ("encode", "decompose")]
    assert all(speed > 0 for speed in speeds)
    assert found["metrics"]["synthetic/clean/none/throughput-over-plain"] > 0
    assert found["settings"]["tokens"] == bool(tokens)


def test_memory_is_measured_in_processes_of_their_own():
    assert alone(os.getpid) != os.getpid()
    assert alone(peak_memory) > 1e6
