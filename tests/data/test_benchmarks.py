"""The papers' test sets, from folders as their authors lay them out."""

import re

import pytest
import torch
from PIL import Image

from clip_decomp.data import open_data
from clip_decomp.data.benchmarks import imagenet_names, open_benchmark
from clip_decomp.errors import DataError

BANANA, LEMON = "n07753592", "n07749582"


def pictures(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        Image.new("RGB", (20, 10), (40 * place, 0, 0)).save(folder / name)


def test_names_of_imagenet_differ():
    names = imagenet_names()
    assert len(set(names)) == len(names) == 1000
    assert (names[657], names[744]) == ("missile", "projectile")


@pytest.mark.parametrize(("name", "folders"), [("imagenet-a", (BANANA, LEMON)), ("imagenet-v2", ("954", "951"))])
def test_shifted_sets_are_tested_among_their_own_classes(tmp_path, name, folders):
    for each in folders:
        pictures(tmp_path / each, *(f"{k}.jpeg" for k in range(5)))
    (tmp_path / ".hidden").mkdir()
    data = open_data(f"{name}={tmp_path}", 16)
    assert data.test.class_names == ("lemon", "banana")  # in ImageNet's order
    assert data.test.target == "banana"
    assert (len(data.test), len(data.held_out)) == (8, 2)
    images, labels = data.test.load()
    assert images.shape == (8, 3, 16, 16)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4


def test_pets_and_caltech_as_torchvision_lays_them_out(tmp_path):
    notes = tmp_path / "oxford-iiit-pet" / "annotations"
    notes.mkdir(parents=True)
    lines = [f"{breed}_{k} {place + 1} 1 1" for place, breed in enumerate(("Abyssinian", "samoyed")) for k in range(5)]
    (notes / "test.txt").write_text("\n".join(lines) + "\n")
    pictures(tmp_path / "oxford-iiit-pet" / "images", *(f"{line.split()[0]}.jpg" for line in lines))
    pets = open_benchmark("pets", tmp_path, 16)
    assert pets.class_names == ("abyssinian", "samoyed")
    assert (pets.target, pets.templates) == ("samoyed", ("a photo of a {}, a type of pet.",))
    assert len(pets.load()[0]) == 10
    assert open_data(f"pets={tmp_path}", 16).train is None
    (notes / "trainval.txt").write_text("\n".join(lines[:6]) + "\n")
    assert len(open_data(f"pets={tmp_path}", 16).train) == 6

    root = tmp_path / "caltech101" / "101_ObjectCategories"
    for each in ("accordion", "sea_horse", "BACKGROUND_Google"):
        pictures(root / each, "image_0001.jpg", "image_0002.jpg")
    (tmp_path / "caltech101" / "Annotations").mkdir()
    caltech = open_benchmark("caltech101", tmp_path, 16)
    assert caltech.class_names == ("accordion", "sea horse")
    assert caltech.target == "accordion"
    assert len(caltech.load()[0]) == 4


def test_imagenet_is_learned_from_where_its_training_part_is(tmp_path):
    torch.save(({"n00000001": ("a",), "n00000002": ("b",)}, ["n00000001"] * 5), tmp_path / "meta.bin")
    for part, count in (("val", 5), ("train", 3)):
        for wnid in ("n00000001", "n00000002"):
            pictures(tmp_path / part / wnid, *(f"{k}.jpeg" for k in range(count)))
    data = open_data(f"imagenet={tmp_path}", 16)
    assert (len(data.test), len(data.held_out), len(data.train)) == (8, 2, 6)
    assert data.to_learn_from() is data.train


def test_what_is_missing_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere.*modestyachts"):
        open_data(f"imagenet-v2={tmp_path / 'nowhere'}", 16)
    with pytest.raises(DataError, match=re.escape("image-net.org")):
        open_benchmark("imagenet", tmp_path, 16)
    with pytest.raises(DataError, match="OxfordIIITPet"):
        open_benchmark("pets", tmp_path, 16)
    with pytest.raises(DataError, match="no images below"):
        open_benchmark("imagenet-r", tmp_path, 16)
    with pytest.raises(DataError, match="did you mean"):
        open_benchmark("imagenet-x", tmp_path, 16)
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match="neither the number of a class nor"):
        open_benchmark("imagenet-r", tmp_path, 16)
