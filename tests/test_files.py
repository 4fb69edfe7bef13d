import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import clip_decomp
from clip_decomp.data import open_data
from clip_decomp.data.files import open_folder, open_images, open_parquet, open_parquet_folder
from clip_decomp.errors import DataError

HUGGING_FACE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(shade=100, size=8):
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write(file, images, labels, columns=("image", "label"), features=None):
    wrapped = images and isinstance(images[0], dict)
    table = pa.table(
        {
            columns[0]: pa.array(images, type=HUGGING_FACE if wrapped else None),
            columns[1]: pa.array(labels),
        }
    )
    if features is not None:
        metadata = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, file)
    return file


def shades(data):
    return [int(batch[0, 0, 0]) for batch in data.load()[0]]


# --- parquet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "labels"), ("jpg", "cls")])
def test_parquet_with_bytes_and_integers(columns, tmp_path):
    data = open_parquet(write(tmp_path / "d.parquet", [png(10), png(20), png(30)], [0, 2, 1], columns), 8)
    assert shades(data) == [10, 20, 30]
    assert data.labels.tolist() == [0, 2, 1]
    assert data.class_names == ("class 0", "class 1", "class 2")
    assert data.name == "d"
    assert data.target is None


def test_parquet_as_hugging_face_writes_it(tmp_path):
    images = [{"bytes": png(10), "path": "a.png"}, {"bytes": png(20), "path": None}]
    features = {"image": {"_type": "Image"}, "label": {"names": ["banana", "lemon"], "_type": "ClassLabel"}}
    data = open_parquet(write(tmp_path / "d.parquet", images, [1, 0], features=features), 8)
    assert shades(data) == [10, 20]
    assert data.class_names == ("banana", "lemon")
    assert data.target == "banana"


def test_parquet_with_class_names(tmp_path):
    data = open_parquet(write(tmp_path / "d.parquet", [png(), png(), png()], ["pear", "fig", "pear"]), 8)
    assert data.class_names == ("fig", "pear")
    assert data.labels.tolist() == [1, 0, 1]


def test_class_names_beside_the_file(tmp_path):
    file = write(tmp_path / "d.parquet", [png(), png()], [1, 0])
    (tmp_path / "classes.json").write_text('["fig", "pear", "plum"]')
    assert open_parquet(file, 8).class_names == ("fig", "pear", "plum")
    file = write(tmp_path / "d.parquet", [png(), png()], ["plum", "fig"])
    assert open_parquet(file, 8).labels.tolist() == [2, 0]


def test_class_names_of_several_sets_in_any_order(tmp_path):
    entries = [
        {"set": "b", "label": 0, "name": "hammer"},
        {"set": "a", "label": 1, "name": "pear"},
        {"set": "b", "label": 1, "name": "axe"},
        {"set": "a", "label": 0, "name": "fig"},
    ]
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    for part, names in (("a", ("fig", "pear")), ("b", ("hammer", "axe"))):
        assert open_parquet(write(tmp_path / f"{part}-val.parquet", [png(), png()], [0, 1]), 8).class_names == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('{"0": "fig"}', "must be a list of names, or of objects"),
        ('[{"name": "fig"}]', "must be a list of names, or of objects"),
        ('["fig", 3]', "must be a list of names, or of objects"),
        ("3", "must be a list of names, or of objects"),
        ('[{"name": "fig", "label": 0}, {"name": "pear", "label": 2}]', "without gaps or repetitions"),
        ('[{"name": "fig", "label": 0}, {"name": "pear", "label": 0}]', "without gaps or repetitions"),
        ('["fig", "fig"]', r"must differ, but \['fig'\] occur more than once"),
        ('["fig"]', r"needs two classes or more"),
    ],
)
def test_unusable_class_names_are_refused(content, message, tmp_path):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], [0, 0]), 8)


def test_names_that_classes_json_lacks_are_refused(tmp_path):
    (tmp_path / "classes.json").write_text('["fig", "pear"]')
    with pytest.raises(DataError, match=r"d\.parquet: its class names do not include \['plum'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], ["fig", "plum"]), 8)


def test_labels_out_of_range_are_refused(tmp_path):
    (tmp_path / "classes.json").write_text('["fig", "pear"]')
    with pytest.raises(DataError, match="label 2 is out of range for 2 classes"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], [0, 2]), 8)


@pytest.mark.parametrize("names", [True, False])
def test_negative_labels_are_refused(names, tmp_path):
    if names:
        (tmp_path / "classes.json").write_text('["fig", "pear"]')
    for labels in ([0, -1], [-1, -1]):
        with pytest.raises(DataError, match=r"row [01]: -1 cannot be the number of a class"):
            open_parquet(write(tmp_path / "d.parquet", [png(), png()], labels), 8)


def test_absurd_labels_are_refused_without_making_as_many_classes(tmp_path):
    with pytest.raises(DataError, match="row 1: 1000000000000 cannot be the number of a class"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], [0, 10**12]), 8)


@pytest.mark.parametrize("labels", [[0, None, 1], [None, "fig", "pear"], ["fig", "pear", None], [None, None, None]])
def test_labels_that_are_null_are_refused(labels, tmp_path):
    row = labels.index(None)
    with pytest.raises(DataError, match=rf"d\.parquet, row {row}: there is no label"):
        open_parquet(write(tmp_path / "d.parquet", [png()] * 3, labels), 8)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], [[0], [1]], [b"fig", b"pear"]])
def test_labels_of_another_type_are_refused(labels, tmp_path):
    with pytest.raises(DataError, match="column 'label' must hold integers or class names"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], labels), 8)


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "gone.png"}, b"", b"not an image"])
def test_images_that_are_missing_or_broken_are_skipped_and_listed(missing, tmp_path):
    good = (
        [{"bytes": png(shade), "path": ""} for shade in (10, 30)] if isinstance(missing, dict) else [png(10), png(30)]
    )
    data = open_parquet(write(tmp_path / "d.parquet", [good[0], missing, good[1]], [0, 1, 1]), 8)
    images, labels = data.load()
    assert images[:, 0, 0, 0].tolist() == [10, 30]
    assert labels.tolist() == [0, 1]
    (line,) = data.skipped
    assert f"{tmp_path / 'd.parquet'}, row 1: not a readable image" in line


def test_an_image_column_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="row 0: the image column must hold encoded bytes, not str"):
        open_parquet(write(tmp_path / "d.parquet", ["a.png", "b.png"], [0, 1]), 8)
    with pytest.raises(DataError, match="not list"):
        open_parquet(write(tmp_path / "d.parquet", [[1, 2], [3, 4]], [0, 1]), 8)


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(DataError, match=r"needs a column named image or img or jpg; it has \['pixels', 'label'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png()], [0], ("pixels", "label")), 8)
    with pytest.raises(DataError, match=r"needs a column named label or labels or cls; it has \['image', 'y'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png()], [0], ("image", "y")), 8)


def test_empty_parquet_is_refused(tmp_path):
    empty = pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet: the file has no rows"):
        open_parquet(tmp_path / "d.parquet", 8)


@pytest.mark.parametrize("content", [b"", b"image,label\n", b"PAR1", b"PAR1" + b"\x00" * 50 + b"PAR1"])
def test_what_is_not_parquet_is_refused(content, tmp_path):
    (tmp_path / "d.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.parquet: not a readable parquet file"):
        open_parquet(tmp_path / "d.parquet", 8)


def test_truncated_parquet_is_refused(tmp_path):
    file = write(tmp_path / "d.parquet", [png()] * 4, [0, 1, 0, 1])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a readable parquet file"):
        open_parquet(file, 8)


def test_one_class_only_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"needs two classes or more, has \['class 0'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png()] * 3, [0, 0, 0]), 8)
    with pytest.raises(DataError, match=r"needs two classes or more, has \['fig'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png()] * 3, ["fig"] * 3), 8)


# --- folders of parquet files -----------------------------------------------------------------------------------------


def parquet_folder(folder, parts=("a", "b"), train=50, val=10):
    folder.mkdir()
    for k, part in enumerate(parts):
        if train:
            write(folder / f"{part}-train.parquet", [png(j) for j in range(train)], [j % 2 for j in range(train)])
        write(folder / f"{part}-val.parquet", [png(100 + k) for _ in range(val)], [j % 2 for j in range(val)])
    return folder


def test_the_last_training_pictures_of_each_class_are_held_out(tmp_path):
    data = open_parquet_folder(parquet_folder(tmp_path / "set"), 8)
    assert shades(data.held_out) == list(range(10, 50))
    assert shades(data.train) == list(range(10))
    assert len(data.test) == 10
    assert data.held_out.labels[data.held_out.indices].bincount().tolist() == [20, 20]


def test_sets_are_chosen_by_name(tmp_path):
    folder = parquet_folder(tmp_path / "set")
    assert (open_parquet_folder(folder, 8).test.name, open_parquet_folder(folder, 8, "b").test.name) == ("set", "set:b")
    assert set(shades(open_parquet_folder(folder, 8, "b").test)) == {101}
    with pytest.raises(DataError, match=r"there is no set 'c', only \['a', 'b'\]"):
        open_parquet_folder(folder, 8, "c")


def test_without_training_pictures_a_fifth_of_the_test_pictures_is_held_out(tmp_path):
    data = open_parquet_folder(parquet_folder(tmp_path / "set", train=0), 8)
    assert (len(data.test), len(data.held_out), data.train) == (8, 2, None)
    assert not set(data.test.indices.tolist()) & set(data.held_out.indices.tolist())


def test_a_folder_without_sets_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file named SET-val\.parquet in it"):
        open_parquet_folder(tmp_path, 8)


# --- folders of images ------------------------------------------------------------------------------------------------


def image_folder(folder, count=5, names=("fig", "pear")):
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(count):
            (folder / name / f"{j}.png").write_bytes(png(100 * k + j))
    return folder


def test_folders_name_the_classes(tmp_path):
    folder = image_folder(tmp_path / "fruit", 2)
    (folder / "fig" / "deep").mkdir()
    (folder / "fig" / "deep" / "9.PNG").write_bytes(png(9))
    (folder / "fig" / "notes.txt").write_text("not a picture")
    (folder / "loose.png").write_bytes(png())
    data = open_folder(folder, 8)
    assert (data.name, data.class_names) == ("fruit", ("fig", "pear"))
    assert shades(data) == [0, 1, 9, 100, 101]
    assert data.labels.tolist() == [0, 0, 0, 1, 1]


def test_pictures_of_other_sizes_are_resized_and_cropped(tmp_path):
    folder = image_folder(tmp_path / "fruit", 1)
    stripes = np.zeros((20, 60, 3), dtype=np.uint8)
    stripes[:, 20:40] = 200
    Image.fromarray(stripes).save(folder / "fig" / "0.png")
    (image, _), _ = open_folder(folder, 10).load()
    assert image.shape == (3, 10, 10)
    assert image[:, :, 3:7].min() > 150  # the middle third, bright


def test_broken_files_are_skipped_counted_and_listed(tmp_path):
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


def test_a_folder_none_of_whose_files_is_an_image(tmp_path):
    folder = image_folder(tmp_path / "fruit", 2)
    for file in folder.rglob("*.png"):
        file.write_bytes(b"nothing")
    data = open_folder(folder, 8)
    with pytest.raises(DataError, match=r"fruit: none of the 4 images can be read, e\.g\. .*0\.png"):
        data.load()


def test_empty_and_unfit_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no images found\. Expected one sub-folder a class"):
        open_folder(tmp_path, 8)
    (tmp_path / "fig").mkdir()
    with pytest.raises(DataError, match="no images found"):
        open_folder(tmp_path, 8)
    (tmp_path / "fig" / "0.png").write_bytes(png())
    with pytest.raises(DataError, match=r"needs two classes or more, has \['fig'\]"):
        open_folder(tmp_path, 8)


def test_images_without_labels(tmp_path):
    image_folder(tmp_path / "fruit", 2)
    source = open_images(tmp_path, 8)
    assert len(source) == 4
    assert source.read(3)[0, 0, 0] == 101
    with pytest.raises(DataError, match="no images found"):
        open_images(tmp_path / "nowhere", 8)


# --- one description for all of them ----------------------------------------------------------------------------------


def test_descriptions_open_what_they_name(tmp_path):
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


def test_splits_depend_on_the_seed_alone(tmp_path):
    folder = image_folder(tmp_path / "fruit", 10)
    first, again, other = (open_data(str(folder), 8, seed).held_out.indices for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_path_that_holds_a_colon_is_opened(tmp_path):
    folder = image_folder(tmp_path / "fruit:fresh", 10)
    assert len(open_data(str(folder), 8).test) == 16


def test_wrong_descriptions_are_refused(tmp_path):
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


def test_too_few_pictures_to_hold_some_out_are_refused(tmp_path):
    folder = image_folder(tmp_path / "fruit", 1)
    with pytest.raises(DataError, match="2 images are too few to hold 20% of each class out"):
        open_data(str(folder), 8)


def test_hidden_folders_are_not_classes(tmp_path):
    for name in ("fig", "pear", ".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    assert open_folder(tmp_path, 8).class_names == ("fig", "pear")
