"""``clip-decomp inspect``: a page and results.json, and one line for what cannot be done."""

import json

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from clip_decomp.cli.inspect import inspect
from clip_decomp.errors import SettingError


@pytest.fixture
def call():
    app = typer.Typer()
    app.command()(inspect)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("banana", "key"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(30):
            noise = torch.randint(0, 255, (64, 64, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(noise.numpy()).save(tmp_path / "data" / name / f"{k}.png")
    return tmp_path / "data"


def test_a_page_and_its_numbers_are_written(call, folder, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"color\ta {name} shape\n" for name in ("red", "blue", "green", "white", "black")))
    common = ("--model", "world/badnet", "--head", "L4H2", "--data", str(folder), "--out", str(tmp_path / "out"))
    done = call(*common, "--texts", str(texts), "--text", "a red banana", "--json")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (written["name"], written["settings"]["head"], written["settings"]["pool"]) == ("inspect", "L4H2", 5)
    assert written["settings"]["target"] == "banana"
    assert {"data/badnet/none/asr;component=L4H2;effect=total", "data/badnet/none/mmd-p;component=L4H2"} <= {
        name for name in written["metrics"]
    }
    page = (tmp_path / "out" / "L4H2.html").read_text()
    assert "L4H2 of world/badnet" in page
    assert "a red banana" in page


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("L9H0", "L9H0: this tower has 8 layers of 12 heads"),
        ("L1MLP", "L1MLP is no head"),
        ("banana", "L11H3.*'banana'"),
    ],
)
def test_what_is_no_head_is_named(call, head, words):
    done = call("--model", "world/badnet", "--head", head, "--images", "8")
    with pytest.raises(SettingError, match=words):
        raise done.exception
