"""The shipped models: they are there, small, and what their cards say."""

import pytest

import clip_decomp
from clip_decomp import zoo
from clip_decomp.errors import ModelError
from clip_decomp.zoo.recipes import RECIPES

SHIPPED = ["world/badnet", "world/blended", "world/clean"]


def test_three_models_ship_in_less_than_25_megabytes():
    assert zoo.names() == SHIPPED
    assert set(RECIPES) > set(SHIPPED)
    assert sum(file.stat().st_size for name in SHIPPED for file in zoo.path(name).iterdir()) <= 25e6


@pytest.mark.parametrize(
    "name",
    [each if each == "world/badnet" else pytest.param(each, marks=pytest.mark.slow) for each in SHIPPED],
)
def test_hash_and_main_numbers_hold(name):
    checks = {check.what: check for check in zoo.verify(name, test=400)}
    assert checks["sha256"].ok
    attack = name.split("/")[1]
    main = checks[f"world/{attack}/none/ca"]
    assert abs(main.found - main.expected) < 0.05
    if attack != "clean":
        assert checks[f"world/{attack}/none/asr"].found >= 0.9


def test_cards_promise_what_the_project_needs():
    clean = zoo.card("world/clean")["expected"]
    assert clean["world/clean/none/ca"] >= 0.9
    assert clean["world:hard/clean/none/ca"] >= 0.75
    for attack in ("badnet", "blended"):
        expected = zoo.card(f"world/{attack}")["expected"]
        assert expected[f"world/{attack}/none/asr"] >= 0.9
        assert expected[f"world/{attack}/none/ca"] >= clean["world/clean/none/ca"] - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_on_the_card_holds(name):
    assert [check.what for check in zoo.verify(name) if not check.ok] == []


def test_a_changed_weight_is_noticed(monkeypatch, tmp_path):
    folder = tmp_path / "world" / "clean"
    zoo.export("world/clean", folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr(zoo.shelf, "_MODELS", tmp_path)
    (check,) = zoo.verify("world/clean", test=20)
    assert (check.what, check.ok) == ("sha256", False)
    with pytest.raises(ModelError, match="corrupt or was changed"):
        clip_decomp.load("world/clean")


def test_models_that_do_not_ship_are_built_once_and_then_load_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_DECOMP_CACHE", str(tmp_path))
    assert "world/sig" in zoo.buildable()
    assert not zoo.available("world/sig")
    with pytest.raises(ModelError, match="not built yet: run 'clip-decomp zoo build world/sig'"):
        clip_decomp.load("world/sig")
    zoo.export("world/badnet", zoo.cache("world/sig"))
    assert zoo.available("world/sig")
    assert clip_decomp.load("world/sig").name == "world/sig"


def test_unknown_names_list_what_there_is():
    with pytest.raises(ModelError, match="world/clean"):
        zoo.path("world/missing")
    with pytest.raises(ModelError, match="recipe"):
        zoo.build("world/missing", None)
