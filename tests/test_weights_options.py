"""``--pretrained`` and its kin are offered by every command that takes ``--model``."""

import json
import sys
from typing import Annotated

import open_clip
import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from clip_decomp.cli import application
from clip_decomp.cli.run import Model
from clip_decomp.cli.weights import Weights, offer, open_beside, open_model, said

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def commands(app):
    yield from app.registered_commands
    for group in app.registered_groups:
        yield from commands(group.typer_instance)


def test_every_command_with_a_model_takes_its_weights():
    found = {}
    for each in commands(application()):
        name = each.name or each.callback.__name__
        parameters = typer.main.get_command_from_info(each, pretty_exceptions_short=False, rich_markup_mode=None).params
        options = [option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)]
        if "--model" in options and "--pretrained" not in options:
            found[name] = options
        if "--pretrained" in options:
            assert {"--model", "--quick-gelu", "--no-quick-gelu", "--mean", "--std"} <= set(options)
    # Those that compare several models, or (benches) whose weights do not matter.
    assert set(found) == {"audits", "decompose", "demo", "filtering", "guard", "study"}, sorted(found)


@pytest.fixture
def app():
    app = typer.Typer()

    @app.command()
    def show(model: Model, seed: int = 0) -> None:
        sys.stdout.write(json.dumps({"model": model, "seed": seed, **vars(said())}))

    @app.command()
    def other() -> None:
        pass

    offer(app)
    offer(app)  # once is enough
    return app


def test_what_was_said_reaches_the_command_and_is_forgotten(app):
    line = ["show", "--model", "M", "--pretrained", "w.pt", "--no-quick-gelu", "--mean", "0", "0.5", "1", "--seed", "3"]
    shown = CliRunner().invoke(app, line)
    expected = {"model": "M", "seed": 3, "pretrained": "w.pt", "quick_gelu": False, "mean": [0, 0.5, 1], "std": None}
    assert json.loads(shown.stdout) == expected
    assert said() == Weights()
    assert json.loads(CliRunner().invoke(app, ["show", "--model", "M"]).stdout)["pretrained"] is None
    assert CliRunner().invoke(app, ["other", "--pretrained", "x"]).exit_code == 2


def test_arguments_say_the_same_again(app):
    weights = Weights("w.pt", True, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    shown = json.loads(CliRunner().invoke(app, ["show", "--model", "M", *weights.arguments()]).stdout)
    assert Weights(*(tuple(x) if isinstance(x, list) else x for x in list(shown.values())[2:])) == weights
    assert Weights().arguments() == []


def test_a_file_is_opened_with_what_was_said(tmp_path, monkeypatch):
    for name, quick in (("tiny-for-tests", False), ("tiny-for-tests-quickgelu", True)):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, {**CONFIG, "quick_gelu": quick})
    state = open_clip.create_model("tiny-for-tests").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    app = typer.Typer()
    opened = []

    @app.command()
    def use(model: Model) -> None:
        opened.append(open_model(model, "cpu"))

    offer(app)
    line = ["--model", "tiny-for-tests", "--pretrained", str(tmp_path / "w.safetensors")]
    refused = CliRunner().invoke(app, line)
    assert "exists with QuickGELU and with GELU" in str(refused.exception)
    CliRunner().invoke(app, [*line, "--quick-gelu", "--mean", "0.5", "0.5", "0.5"], catch_exceptions=False)
    assert torch.equal(opened[0].clip.state_dict()["visual.proj"], state["visual.proj"])
    assert opened[0].mean == (0.5, 0.5, 0.5)
    assert "QuickGELU" in str(opened[0].clip)


def test_what_a_model_is_compared_with_has_the_same_architecture_or_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-for-tests", {**CONFIG, "quick_gelu": False})
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(open_clip.create_model("tiny-for-tests").state_dict(), tmp_path / f"{seed}.safetensors")
    app, opened = typer.Typer(), []

    @app.command()
    def compare(model: Model, clean: Annotated[str, typer.Option()]) -> None:
        opened.append((open_model(model, "cpu"), open_beside(model, clean, "cpu")))

    offer(app)
    more = ["--no-quick-gelu", "--mean", "0.5", "0.5", "0.5"]
    named = ["tiny-for-tests", "--pretrained", str(tmp_path / "0.safetensors"), *more]
    for line, clean in ((named, str(tmp_path / "1.safetensors")), (["world/badnet"], "world/clean")):
        assert not CliRunner().invoke(app, ["--model", *line, "--clean", clean], catch_exceptions=False).exit_code
    for each, other in opened:
        assert each.mean == other.mean
        assert each.clip.visual.proj.shape == other.clip.visual.proj.shape
        assert not torch.equal(each.clip.visual.proj, other.clip.visual.proj)
    assert opened[1][1].name == "world/clean"
    line = ["--model", str(tmp_path / "0.safetensors"), *more, "--clean", "world/clean"]  # which says them itself
    assert not CliRunner().invoke(app, line, catch_exceptions=False).exit_code
    assert opened[2][1].name == "world/clean"
    refused = CliRunner().invoke(app, ["--model", "world/badnet", "--clean", "tiny-for-tests"])
    assert "has random weights" in str(refused.exception)
