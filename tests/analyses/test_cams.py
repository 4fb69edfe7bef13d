"""Where models look: the mass of maps on a trigger."""

import json

import torch

from analyses.cams import looks, on_trigger
from clip_decomp import load
from clip_decomp.data import open_data
from clip_decomp.methods.gradcam import gradcam
from clip_decomp.model import HookedCLIP
from clip_decomp.prompts import DeepVisualPrompts
from clip_decomp.prompts.classwise import ClassPrompts
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.zeroshot import class_vectors
from defenses import CBPT, RVPT

NAMES = ("apple", "pear", "plum", "fig")


def test_the_share_is_that_of_the_changed_patches_and_empty_maps_are_counted():
    clean = torch.full((3, 3, 16, 16), 0.5)
    triggered = clean.clone()
    triggered[:, :, 8:, :4] += 0.2
    triggered[:, :, 0, 15] += 0.001  # less than 8 bits show
    maps = torch.zeros(3, 4, 4)
    maps[0, 2, 0], maps[0, 0, 3] = 3, 1
    maps[1, 3, 0] = 2
    found = on_trigger(maps, clean, triggered)
    assert found.share.tolist() == [0.75, 1]
    assert found.chance.tolist() == [2 / 16] * 2
    assert found.empty == 1
    assert "1 of 3 maps are zero" in str(found)
    assert "no map says anything" in str(on_trigger(maps[2:], clean[2:], triggered[2:]))


def test_every_picture_is_mapped_toward_the_class_that_it_is_given(model):
    pixels = torch.rand(9, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    vectors = class_vectors(model, NAMES)
    maps, given = looks(model, pixels, vectors)
    images = model.normalize(pixels)
    assert torch.equal(given, (model.encode_image(images) @ vectors.T).argmax(1))
    whole = gradcam(model, images, vectors).maps
    torch.testing.assert_close(maps, whole[torch.arange(9), :, :, given])


def test_residual_networks_are_mapped_too(tokenizer):
    sizes = Architecture(
        layers=(1, 1, 1, 1), width=8, heads=4, vocab_size=tokenizer.vocab_size, context_length=tokenizer.context_length
    )
    resnet = HookedCLIP(build(sizes, seed=0).eval(), tokenizer, (0.5,) * 3, (0.25,) * 3)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps, given = looks(resnet, pixels, class_vectors(resnet, NAMES))
    assert maps.shape == (2, 4, 4)  # of the third stage: the last has two by two
    assert given.shape == (2,)


def test_cams_from_the_command_line(succeed, tmp_path):
    model = load("world/badnet")
    DeepVisualPrompts(model, 2, range(2, 8)).save(tmp_path / "rvpt", defense="rvpt", settings=RVPT(length=2).settings())

    names = open_data("world", 64, test=26).test.class_names
    ClassPrompts(model, names, length=2).save(tmp_path / "cbpt", defense="cbpt", settings=CBPT(length=2).settings())
    both = ["--cbpt", str(tmp_path / "cbpt"), "--rvpt", str(tmp_path / "rvpt")]
    succeed("cams", "--model", "world/badnet", *both, "--images", "26", "--out", str(tmp_path / "out"))
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    for name in ("none", "cbpt", "rvpt"):
        assert 0 <= metrics[f"world/badnet/{name}/cam-on-trigger"] <= 1
        # A patch smaller than a token covers one to four of 64.
        assert 1 / 64 <= metrics[f"world/badnet/{name}/cam-on-trigger;of=chance"] <= 4 / 64
    assert "Grad-CAM under the trigger" in (tmp_path / "out" / "report.html").read_text()
    assert "Name prompts" in succeed("cams", "--model", "world/badnet", code=1)
    assert "carries no attack" in succeed("cams", "--model", "world/clean", *both, code=1)
