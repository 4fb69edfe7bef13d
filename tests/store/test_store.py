"""A store gives back what the live decomposition gives."""

import json

import pytest
import torch

import clip_decomp
from clip_decomp.ablation.direct import direct_ablation
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.contributions import collect
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.errors import DataError
from clip_decomp.methods.mmd import component_mmd
from clip_decomp.methods.textspan import textspan
from clip_decomp.model import HookedCLIP
from clip_decomp.moments import collect_statistics
from clip_decomp.store import open_store, write_store

BOUND = {"fp16": 1e-3, "fp32": 1e-5}


def worst(found, expected):
    """The largest error of a vector relative to its own norm."""
    gap = (found.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1)
    return gap.max().item()


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("rule", ["exact", "paper"])
def test_every_part_is_that_of_the_live_decomposition(dtype, rule, model, toy, tmp_path):
    trigger = BadNet(share=0.25)
    store = write_store(model, toy, tmp_path, trigger, rule, dtype, shard_size=10, batch_size=4).store
    pixels = trigger(toy.source.images.float() / 255, torch.arange(24))
    with torch.no_grad():
        dec = model.decompose(model.normalize(pixels), convention=rule)
    for layer in range(3):
        for head in range(4):
            assert worst(store[layer, head], dec.heads[:, layer, head]) < BOUND[dtype]
        assert worst(store.mlps(layer), dec.mlps[:, layer]) < BOUND[dtype]
    assert worst(store.part("embedding"), dec.embedding) < BOUND[dtype]
    if rule == "exact":
        assert worst(store.part("bias"), dec.bias) < BOUND[dtype]
    else:
        assert not store.part("bias").any()
    torch.testing.assert_close(store.norm, dec.norm)
    torch.testing.assert_close(store.scale, dec.scale)
    assert worst(store.contributions().sum(), dec.sum()) < BOUND[dtype]
    assert torch.equal(store.labels, toy.labels)
    assert torch.equal(store.indices, torch.arange(24))
    assert (store.convention.name, len(store)) == (rule, 24)
    assert store.plan.settings["attack"]["name"] == "badnet"


@pytest.mark.parametrize("factor", [1e-7, 1e6])
def test_contributions_beyond_half_precision_are_kept(factor, model, toy, tmp_path):
    with torch.no_grad():
        model.visual.tower.proj.mul_(factor)
    store = write_store(model, toy, tmp_path).store
    with torch.no_grad():
        dec = model.decompose(model.normalize(toy.source.images.float() / 255))
    plain = dec.coordinates()[:, 1, 2].half().float()
    assert worst(plain, dec.coordinates()[:, 1, 2]) > 1e-2  # what half precision alone makes of them
    assert worst(store[1, 2], dec.heads[:, 1, 2]) < 1e-3
    assert worst(store.mlps(1), dec.mlps[:, 1]) < 1e-3


def test_statistics_are_those_of_unrounded_contributions(model, toy, store):
    expected = collect_statistics(model, toy)
    found = store.statistics.load()
    assert found.count == 24
    for name in ("head_sum", "head_second", "mlp_sum", "mlp_second", "layer_sum", "layer_second", "basis"):
        value = getattr(found, name)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, getattr(expected, name), rtol=1e-4, atol=1e-5)
    for one, other in (
        (store.statistics.head(2, -1), found.head(2, -1)),
        (store.statistics.mlp(-2), found.mlp(-2)),
        (store.statistics.layer(0), found.layer(0)),
    ):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.second, other.second)
        assert torch.equal(one.basis, other.basis)
    every = collect(model, toy)
    vectors = every.coordinates[:, 1, 3].double()
    assert store.covariance(1, 3).dtype == torch.float64
    torch.testing.assert_close(store.covariance(1, 3), vectors.T.cov(correction=0), rtol=1e-4, atol=1e-6)
    means, live = store.mean, every.means()
    for name in ("heads", "mlps", "embedding"):
        torch.testing.assert_close(getattr(means, name), getattr(live, name), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(store.statistics.mean_of("bias"), every.bias.double().mean(0), rtol=1e-4, atol=1e-6)


def test_batches_cross_shards_and_add_up_to_the_whole(store):
    whole = store.contributions()
    for size in (1, 7, 10, 100):
        parts = list(store.batches(size))
        assert sum(map(len, parts)) == 24
        for name in ("coordinates", "mlps", "embedding", "bias", "labels"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert [len(part) for part in store] == [24]
    assert torch.equal(store.contributions(slice(8, 13)).mlps, whole.mlps[8:13])
    assert torch.equal(store.coordinates(1, 1, slice(-3, None)), whole.coordinates[-3:, 1, 1])
    assert torch.equal(store[-1, -1], store[2, 3])


def test_methods_take_a_store_for_a_model(model, toy, store, tmp_path):
    live, stored = collect(model, toy), store.contributions()
    bad = write_store(model, toy, tmp_path / "bad", BadNet(share=0.5)).store.contributions()
    features = torch.nn.functional.normalize(torch.randn(30, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    one = textspan(store.statistics.head(1, 2), features, n_texts=4, rank=6)
    other = textspan(live.head(1, 2), features, n_texts=4, rank=6)
    assert one.indices.tolist() == other.indices.tolist()
    distances = [component_mmd(each.coordinates, bad.coordinates).value for each in (live, stored)]
    torch.testing.assert_close(distances[0], distances[1], rtol=1e-2, atol=1e-3)
    vectors = torch.nn.functional.normalize(torch.randn(4, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    sweeps = [direct_ablation(each, bad, each.means(), vectors, 3) for each in (live, stored)]
    assert sweeps[0].clean_accuracy == sweeps[1].clean_accuracy
    assert sweeps[0].poisoned_accuracy == sweeps[1].poisoned_accuracy


class Broken(TensorSource):
    """Pictures 3 and 10 to 19 cannot be read."""

    def read(self, index):
        if index == 3 or 10 <= index < 20:
            raise DataError(f"picture {index}: truncated")
        return self.images[index]


def test_unreadable_pictures_are_left_out_counted_and_listed(model, toy, tmp_path):
    data = ImageSet("toy", toy.class_names, toy.labels, Broken(toy.source.images))
    store = write_store(model, data, tmp_path, shard_size=10, batch_size=4).store
    kept = [index for index in range(24) if index != 3 and not 10 <= index < 20]
    assert store.indices.tolist() == kept
    assert torch.equal(store.labels, toy.labels[kept])
    assert store.manifest["counts"] == {"images": 13, "skipped": 11}
    assert store.skipped == [f"picture {index}: truncated" for index in (3, *range(10, 20))]
    assert [shard["images"] for shard in store.manifest["shards"]] == [9, 0, 4]
    assert store.statistics.head(0, 0).count == 13
    assert [len(part) for part in store.batches(10)] == [10, 3]
    expected = collect(model, data)
    assert worst(store[2, 2], expected.head(2, 2)) < 1e-3


def test_a_data_set_without_readable_pictures_is_an_error(model, toy, tmp_path):
    data = ImageSet("toy", toy.class_names, toy.labels, Broken(toy.source.images)).subset(torch.arange(10, 20))
    with pytest.raises(DataError, match=r"toy: none of the 10 images can be read, e\.g\. picture 10: truncated"):
        write_store(model, data, tmp_path, shard_size=4)


def test_model_and_pictures_are_left_as_they_were(model, toy, tmp_path, unchanged):
    check, pixels = unchanged(model.clip), toy.source.images.clone()
    write_store(model, toy, tmp_path)
    assert check()
    assert torch.equal(toy.source.images, pixels)
    assert toy.skipped == []
    assert all(parameter.grad is None for parameter in model.clip.parameters())


def test_the_store_says_what_it_is_of(model, store):
    again = clip_decomp.open_store(str(store.folder), model)
    assert repr(again) == ("Store(24 pictures of toy read by tiny, 3 layers of 4 heads, fp16, convention exact)")
    assert again.class_names == ("apple", "pear", "plum", "fig")
    manifest = json.loads((store.folder / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["model"]["name"] == "tiny"
    assert set(manifest["made_with"]["versions"]) == {"clip-decomp", "torch"}
    assert store.n_bytes == sum(file.stat().st_size for file in store.folder.iterdir() if file.suffix == ".safetensors")
    store.verify()


def test_bytes_an_image_are_a_tenth_of_the_reference_of_vit_b_32(make_clip, tokenizer, tmp_path):
    """A tower of ViT-B/32's proportions: bytes an image follow from the number of layers and heads and their sizes."""
    clip = make_clip(embed_dim=512, layers=2, width=768, head_width=64, image_size=16, mlp_ratio=0.1)
    model = HookedCLIP(clip, tokenizer, (0.5,) * 3, (0.2,) * 3, name="proportions")
    pixels = torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8)
    store = write_store(model, ImageSet("toy", ("a", "b"), torch.arange(64) % 2, TensorSource(pixels)), tmp_path).store
    assert (store.plan.model["heads"], store.plan.model["rank"]) == (12, 64)
    header = 2500 / 64
    two_layers = store.shard_bytes / 64
    each = 12 * 64 * 2 + 12 + 512 * 2 + 1  # a layer's heads and MLP in half precision, and their powers of two
    rest = 2 * (512 * 2 + 1) + 2 * 4 + 2 * 8  # embedding and bias; norm and scale; label and place
    assert abs(two_layers - (2 * each + rest)) < header
    twelve_layers = two_layers + 10 * each
    reference = 4 * 512 * (12 * 12 + 13)  # heads, MLPs and embedding in float32
    assert twelve_layers < 40_000
    assert twelve_layers < reference / 8


@pytest.mark.slow
def test_vit_b_32_takes_less_than_forty_kilobytes_an_image(tmp_path):
    model = clip_decomp.load("ViT-B-32", pretrained=None)
    pixels = torch.randint(256, (32, 3, 224, 224), dtype=torch.uint8)
    data = ImageSet("noise", ("a", "b"), torch.arange(32) % 2, TensorSource(pixels))
    store = write_store(model, data, tmp_path, batch_size=16).store
    assert store.shard_bytes / 32 < 40_000
    assert store.shard_bytes / 32 < 4 * 512 * (12 * 12 + 13) / 8
    with torch.no_grad():
        dec = model.decompose(model.normalize(pixels[:8].float() / 255))
    for layer in range(12):
        for head in range(12):
            assert worst(store[layer, head][:8], dec.heads[:, layer, head]) < 1e-3
        assert worst(store.mlps(layer)[:8], dec.mlps[:, layer]) < 1e-3
    assert open_store(tmp_path, model).shard_bytes == store.shard_bytes
