"""Folders of images."""

import numpy as np
import pytest
from PIL import Image

from clip_decomp.data.files import open_folder, open_images
from clip_decomp.errors import DataError


def test_folders_name_the_classes(tmp_path, png, shades, image_folder):
    folder = image_folder(tmp_path / "fruit", 2)
    (folder / "fig" / "deep").mkdir()
    (folder / "fig" / "deep" / "9.PNG").write_bytes(png(9))
    (folder / "fig" / "notes.txt").write_text("not a picture")
    (folder / "loose.png").write_bytes(png())
    data = open_folder(folder, 8)
    assert (data.name, data.class_names) == ("fruit", ("fig", "pear"))
    assert shades(data) == [0, 1, 9, 100, 101]
    assert data.labels.tolist() == [0, 0, 0, 1, 1]


def test_pictures_of_other_sizes_are_resized_and_cropped(tmp_path, image_folder):
    folder = image_folder(tmp_path / "fruit", 1)
    stripes = np.zeros((20, 60, 3), dtype=np.uint8)
    stripes[:, 20:40] = 200
    Image.fromarray(stripes).save(folder / "fig" / "0.png")
    (image, _), _ = open_folder(folder, 10).load()
    assert image.shape == (3, 10, 10)
    assert image[:, :, 3:7].min() > 150  # the middle third, bright


def test_broken_files_are_skipped_counted_and_listed(tmp_path, png, shades, image_folder):
    folder = image_folder(tmp_path / "fruit", 3)
    (folder / "fig" / "1.png").write_bytes(b"")
    (folder / "pear" / "0.png").write_bytes(png()[:40])
    data = open_folder(folder, 8)
    assert len(data) == 6
    assert shades(data) == [0, 2, 101, 102]
    assert [line.split(":")[0] for line in data.skipped] == [
        str(folder / "fig" / "1.png"),
        str(folder / "pear" / "0.png"),
    ]
    data.load()
    assert len(data.skipped) == 2  # listed once, however often they are met


def test_a_folder_none_of_whose_files_is_an_image(tmp_path, image_folder):
    folder = image_folder(tmp_path / "fruit", 2)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nothing")
    data = open_folder(folder, 8)
    with pytest.raises(DataError, match=r"fruit: none of the 4 images can be read, e\.g\. .*0\.png"):
        data.load()


def test_empty_and_unfit_folders_are_refused(tmp_path, png):
    with pytest.raises(DataError, match=r"no images found\. Expected one sub-folder a class"):
        open_folder(tmp_path, 8)
    (tmp_path / "fig").mkdir()
    with pytest.raises(DataError, match="no images found"):
        open_folder(tmp_path, 8)
    (tmp_path / "fig" / "0.png").write_bytes(png())
    with pytest.raises(DataError, match=r"needs two classes or more, has \['fig'\]"):
        open_folder(tmp_path, 8)


def test_images_without_labels(tmp_path, image_folder):
    image_folder(tmp_path / "fruit", 2)
    source = open_images(tmp_path, 8)
    assert len(source) == 4
    assert source.read(3)[0, 0, 0] == 101
    with pytest.raises(DataError, match="no images found"):
        open_images(tmp_path / "nowhere", 8)


def test_hidden_folders_are_not_classes(tmp_path):
    for name in ("fig", "pear", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    assert open_folder(tmp_path, 8).class_names == ("fig", "pear")
