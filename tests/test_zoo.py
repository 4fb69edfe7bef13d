"""The shipped models: they are there, small, and what their cards say."""

import threading

import pytest
from filelock import FileLock

import clip_decomp
from clip_decomp import zoo
from clip_decomp.errors import AttackFailed, ModelError
from clip_decomp.zoo import building
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


def test_a_good_model_is_not_accused_on_a_few_pictures():
    assert [check.what for check in zoo.verify("world/badnet", test=60) if not check.ok] == []


def test_what_is_damaged_is_said_and_does_not_hide_the_others(monkeypatch, tmp_path, succeed):
    monkeypatch.setenv("CLIP_DECOMP_CACHE", str(tmp_path))
    folder = zoo.cache("world/sig")
    zoo.export("world/badnet", folder)
    (folder / "model.safetensors").unlink()
    assert "there are no weights" in succeed("zoo", "verify", "world/sig", code=1)
    card = folder / "card.json"
    card.write_text(card.read_text()[:100])
    assert "is damaged" in succeed("zoo", "verify", "world/sig", code=1)
    listed = " ".join(succeed("zoo", "list").split())
    assert "damaged" in listed
    assert "badnet, target banana: " in listed


def test_an_attack_that_costs_too_much_clean_accuracy_is_no_entry():
    building._require_accuracy(0.96, "world/clean", "world")
    with pytest.raises(AttackFailed, match=r"costs 18\.8 points of the 98\.8% clean accuracy"):
        building._require_accuracy(0.8, "world/clean", "world")


def test_models_that_do_not_ship_are_built_once_and_then_load_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_DECOMP_CACHE", str(tmp_path))
    assert "world/sig" in zoo.buildable()
    assert not zoo.available("world/sig")
    with pytest.raises(ModelError, match="not built yet: run 'clip-decomp zoo build world/sig'"):
        clip_decomp.load("world/sig")
    zoo.export("world/badnet", zoo.cache("world/sig"))
    assert zoo.available("world/sig")
    assert clip_decomp.load("world/sig").name == "world/sig"


@pytest.mark.parametrize("name", ["world/clean", "world-labels/clean", "world/badnet", "world-controls/0"])
def test_every_kind_of_recipe_trains_where_and_with_whom_it_is_told(monkeypatch, tmp_path, name):
    """The trainer is stopped as soon as it is asked to train."""
    asked = {}

    def train(model, *arguments, workers=0, **options):
        asked.update(device=str(model.logit_scale.device), workers=workers)
        raise KeyboardInterrupt

    for place in ("zoo.building", "training.scratch", "training.locked", "attacks.implant"):
        monkeypatch.setattr(f"clip_decomp.{place}.train", train)
    with pytest.raises(KeyboardInterrupt):
        zoo.build(name, tmp_path, progress=False, device="cpu", workers=3)
    assert asked == {"device": "cpu", "workers": 3}


def test_a_clean_model_that_several_entries_need_is_built_by_one_of_them(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_DECOMP_CACHE", str(tmp_path))
    base, built, means = "world-resnet/clean", [], building.Means(False, "cpu", 1)

    def build(name, out, how):
        built.append((name, how))
        zoo.export("world/clean", out)

    monkeypatch.setattr(building, "_build", build)
    with FileLock(tmp_path / "zoo/world-resnet/clean.lock") as lock:
        waiting = threading.Thread(target=building._require_base, args=(base, means))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert built == []
        lock.release()
    waiting.join(60)
    building._require_base(base, means)
    assert built == [(base, means)]


def test_unknown_names_list_what_there_is():
    with pytest.raises(ModelError, match="world/clean"):
        zoo.path("world/missing")
    with pytest.raises(ModelError, match="recipe"):
        zoo.build("world/missing", None)


def test_recipes_of_the_resnet_ask_for_nothing_that_it_cannot_do():
    found = [each.settings for name, each in RECIPES.items() if name.startswith("world-resnet/") and each.settings]
    assert len(found) == 8
    assert {(each.patch_dropout, getattr(each, "sharpen", 1.0)) for each in found} == {(0.0, 1.0)}
