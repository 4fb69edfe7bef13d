"""One description for every kind of data."""

import pytest
import torch

import clip_decomp
from clip_decomp.data import open_data
from clip_decomp.errors import DataError


def test_descriptions_open_what_they_name(tmp_path, png, write, parquet_folder, image_folder):
    folder = image_folder(tmp_path / "fruit", 10)
    data = open_data(str(folder), 8)
    assert (len(data.test), len(data.held_out), data.train) == (16, 4, None)
    assert open_data(str(folder), 8, test=5).test.labels.shape == (20,)
    assert len(open_data(str(folder), 8, test=5).test) == 5
    file = write(tmp_path / "d.parquet", [png()] * 10, [0, 1] * 5)
    assert len(open_data(str(file), 8).test) == 8
    sets = parquet_folder(tmp_path / "sets")
    assert open_data(str(sets), 8).test.name == "sets"
    assert open_data(f"{sets}:b", 8).test.name == "sets:b"
    assert len(open_data("world", 64, test=7).test) == 7
    assert clip_decomp.open_data is open_data


def test_the_same_pictures_are_held_out_whatever_the_seed(tmp_path, image_folder):
    folder = image_folder(tmp_path / "fruit", 10)
    first, other = (open_data(str(folder), 8, seed) for seed in (0, 1))
    assert torch.equal(first.held_out.indices, other.held_out.indices)
    assert not set(first.held_out.indices.tolist()) & set(other.test.indices.tolist())


def test_a_path_that_holds_a_colon_is_opened(tmp_path, image_folder):
    folder = image_folder(tmp_path / "fruit:fresh", 10)
    assert len(open_data(str(folder), 8).test) == 16


def test_wrong_descriptions_are_refused(tmp_path, image_folder):
    with pytest.raises(DataError, match="there is no such file or folder, and it is not one of the world's sets"):
        open_data(str(tmp_path / "nowhere"), 8)
    with pytest.raises(DataError, match=r"no set 'world:moon': choose from \['world', "):
        open_data("world:moon", 64)
    with pytest.raises(DataError, match="64 pixels wide, but this model takes 224"):
        open_data("world", 224)
    folder = image_folder(tmp_path / "fruit", 10)
    with pytest.raises(DataError, match="has no sets, so none called 'b'"):
        open_data(f"{folder}:b", 8)
    for count in (0, -3):
        with pytest.raises(DataError, match=f"Cannot evaluate on {count} images"):
            open_data(str(folder), 8, test=count)


def test_too_few_pictures_to_hold_some_out_are_refused(tmp_path, image_folder):
    folder = image_folder(tmp_path / "fruit", 1)
    with pytest.raises(DataError, match="2 images are too few to hold 20% of each class out"):
        open_data(str(folder), 8)
