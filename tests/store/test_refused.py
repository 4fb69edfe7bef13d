"""Stores of something else, damaged ones, and settings out of range: errors that name the file or value."""

import json
import shutil

import pytest
import torch

from clip_decomp.attacks.triggers import BadNet
from clip_decomp.data.files import EncodedSource
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError, ModelError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.store import open_store, write_store
from clip_decomp.store.files import locked

SAME = {"shard_size": 10, "batch_size": 4}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "fp32"}, 'dtype is "fp16" there and "fp32" here'),
        ({"shard_size": 12}, "shard_size is 10 there and 12 here"),
        ({"batch_size": 5}, "batch_size is 4 there and 5 here"),
        ({"rule": "paper"}, 'convention is "exact" there and "paper" here'),
        ({"trigger": BadNet(share=0.5)}, "attack is null there"),
    ],
)
def test_a_store_with_other_settings_is_left_alone(changes, words, model, toy, store, contents):
    before = contents(store.folder)
    with pytest.raises(SettingError, match=words):
        write_store(model, toy, store.folder, **{**SAME, **changes})
    assert contents(store.folder) == before


def test_a_store_of_another_model_or_other_data_is_left_alone(model, toy, store, make_clip, tokenizer, contents):
    before = contents(store.folder)
    other = HookedCLIP(make_clip(quick_gelu=False), tokenizer, model.mean, model.std, name="other")
    with torch.no_grad():
        other.visual.tower.proj[0, 0] += 1
    with pytest.raises(SettingError, match=r"model is tiny \(\w{12}\) there and other \(\w{12}\) here"):
        write_store(other, toy, store.folder, **SAME)
    fewer = toy.subset(torch.arange(20))
    with pytest.raises(
        SettingError, match=r"data is toy \(24 pictures, \w{12}\) there and toy \(20 pictures, \w{12}\)"
    ):
        write_store(model, fewer, store.folder, **SAME)
    changed = ImageSet("toy", toy.class_names, toy.labels, TensorSource(toy.source.images ^ 1))
    with pytest.raises(SettingError, match="data is toy"):
        write_store(model, changed, store.folder, **SAME)
    relabelled = ImageSet("toy", toy.class_names, toy.labels.flip(0), toy.source)
    with pytest.raises(SettingError, match="data is toy"):
        write_store(model, relabelled, store.folder, **SAME)
    quick = HookedCLIP(make_clip(quick_gelu=True), tokenizer, model.mean, model.std, name="quick")
    with pytest.raises(SettingError, match=r'activations is \["GELU"\] there and \["QuickGELU"\] here'):
        write_store(quick, toy, store.folder, **SAME)
    shifted = HookedCLIP(model.clip, tokenizer, (0.5, 0.5, 0.5), model.std, name="shifted")
    with pytest.raises(SettingError, match="normalization is"):
        write_store(shifted, toy, store.folder, **SAME)
    assert contents(store.folder) == before
    with pytest.raises(ModelError, match=r"written with other weights \(tiny, \w{12}\) than other has"):
        open_store(store.folder, other)


def test_an_unfinished_store_wants_the_same_versions(model, toy, store):
    manifest = json.loads((store.folder / "manifest.json").read_text())
    manifest["made_with"]["versions"]["torch"] = "1.0"
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    assert write_store(model, toy, store.folder, **SAME).images == 0
    (store.folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(SettingError, match=r"versions is .*1\.0"):
        write_store(model, toy, store.folder, **SAME)
    with pytest.raises(DataError, match="not complete: run the command that began it again"):
        open_store(store.folder)


def test_two_runs_do_not_write_one_store(model, toy, tmp_path):
    with locked(tmp_path), pytest.raises(SettingError, match="another run is writing this store"):
        write_store(model, toy, tmp_path)
    assert write_store(model, toy, tmp_path).images == 24


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "bf16"}, "no dtype 'bf16' for a store: use fp16 or fp32"),
        ({"shard_size": 0}, "shard size must be 1 or more, not 0"),
        ({"batch_size": -1}, "batch size must be 1 or more, not -1"),
        ({"rule": "rough"}, "no convention 'rough'"),
    ],
)
def test_settings_out_of_range_leave_nothing_behind(changes, words, model, toy, tmp_path):
    with pytest.raises(SettingError, match=words):
        write_store(model, toy, tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()


def test_a_decomposition_that_is_not_finite_names_the_picture(make_clip, tokenizer, toy, tmp_path):
    model = HookedCLIP(make_clip(), tokenizer, (0.0,) * 3, (1.0,) * 3, name="fragile")

    def trigger(pixels, numbers):
        pixels = pixels.clone()
        pixels[numbers == 13] = float("nan")
        return pixels

    trigger.settings, trigger.tensors = (lambda: {"name": "nan"}), dict
    with pytest.raises(DataError, match="toy: the decomposition of picture 13 is NaN or infinite"):
        write_store(model, toy, tmp_path, trigger, **SAME)
    assert not (tmp_path / "shard-00001.safetensors").exists()
    with pytest.raises(DataError, match="not complete"):
        open_store(tmp_path)
    with torch.no_grad():
        model.visual.tower.proj[0, 0] = float("inf")
    with pytest.raises(DataError, match="picture 0 is NaN or infinite"):
        write_store(model, toy, tmp_path / "weights", **SAME)


def test_files_are_named_where_they_have_names(make_clip, tokenizer, tmp_path):
    from clip_decomp.data.images import to_pil

    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    names = [str(tmp_path / f"{number}.png") for number in range(4)]
    for name, each in zip(names, pixels, strict=True):
        to_pil(each).save(name)
    data = ImageSet("files", ("a", "b"), torch.arange(4) % 2, EncodedSource(names, names, 32))
    model = HookedCLIP(make_clip(), tokenizer, (0.0,) * 3, (1.0,) * 3)
    with torch.no_grad():
        model.visual.tower.proj[0, 0] = float("nan")
    with pytest.raises(DataError, match=r"picture 0 \(.*0\.png\) is NaN"):
        write_store(model, data, tmp_path / "store")


SHARD, SUMS = "shard-00001.safetensors", "statistics.safetensors"


@pytest.mark.parametrize("name", [SHARD, SUMS, "basis.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "noise", "foreign"])
def test_damaged_files_are_named(name, damage, model, toy, store, tmp_path):
    file = store.folder / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "foreign":
        other = write_store(model, toy, tmp_path / "other", "badnet" and BadNet(share=0.5), **SAME).store
        shutil.copy(other.folder / name, file)
    else:
        file.write_bytes(content[:-9] if damage == "truncated" else bytes(len(content)))
    with pytest.raises(DataError, match=f"{name}: .*Bring the right file back"):
        use(open_store(store.folder))


def use(store):
    return store[0, 0], store.mean


def test_shards_under_each_others_names_are_noticed(store):
    first, second = store.folder / "shard-00000.safetensors", store.folder / SHARD
    content = first.read_bytes()
    if len(content) == len(second.read_bytes()):
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    with pytest.raises(DataError, match="it is shard 1 under another name"):
        use(open_store(store.folder))


def test_a_changed_byte_is_found_by_verifying(store):
    file = store.folder / SHARD
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{SHARD}: its content is not what was written"):
        open_store(store.folder).verify()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no store"),
        ("", "not a readable manifest"),
        ("[]", "not a manifest"),
        ('{"format": 7}', "format 7 is not the one known here"),
        ('{"format": 1, "complete": true}', "not a manifest of a store"),
    ],
)
def test_manifests_of_another_kind_are_named(content, words, store):
    file = store.folder / "manifest.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(DataError, match=words):
        open_store(store.folder)


def test_a_manifest_that_does_not_fit_its_shards_is_refused(model, toy, store):
    file = store.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "shards": manifest["shards"][:2]}))
    with pytest.raises(DataError, match="2 shards are listed, but there must be 3"):
        open_store(store.folder)
    file.unlink()
    with pytest.raises(DataError, match=r"parts of a store without their manifest\.json"):
        write_store(model, toy, store.folder, **SAME)


def test_places_that_are_not_there_are_refused(store):
    for layer, head in ((3, 0), (0, 4), (-4, 0)):
        for read in (store.__getitem__, lambda place: store.covariance(*place), lambda place: store.basis(*place)):
            with pytest.raises(SettingError, match=f"no head L{layer}H{head}: this tower has 3 layers of 4 heads"):
                read((layer, head))
    for read in (store.mlps, store.statistics.mlp, store.statistics.layer):
        with pytest.raises(SettingError, match="no layer 3: this tower has layers 0 to 2"):
            read(3)
    with pytest.raises(SettingError, match=r"store\[layer, head\], not store\[1\]"):
        store[1]
    with pytest.raises(SettingError, match="no part 'pool_mlp' in this store"):
        store.part("pool_mlp")
    with pytest.raises(SettingError, match="no part 'pool'"):
        store.statistics.mean_of("pool")
    with pytest.raises(SettingError, match="batch size must be 1 or more, not 0"):
        list(store.batches(0))
    with pytest.raises(SettingError, match="one or more of 24"):
        store.mlps(0, slice(5, 5))
    with pytest.raises(SettingError, match="one or more of 24"):
        store.mlps(0, slice(0, 8, 2))


def test_a_merged_shard_that_is_gone_is_not_forgotten(model, toy, store):
    """Its sums are in the statistics already: writing it again must not count it twice."""
    file = store.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    unfinished = {name: manifest[name] for name in ("format", "model", "data", "settings", "made_with")}
    file.write_text(json.dumps({**unfinished, "complete": False}))
    (store.folder / SHARD).unlink()
    with pytest.raises(DataError, match=f"{SHARD}: missing, or not what was written, but its sums are merged"):
        write_store(model, toy, store.folder, **SAME)
