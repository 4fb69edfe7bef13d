"""Parquet files, and folders of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_decomp.data.files import open_parquet, open_parquet_folder
from clip_decomp.errors import DataError

# --- parquet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("image", "label"), ("img", "labels"), ("jpg", "cls")])
def test_parquet_with_bytes_and_integers(columns, tmp_path, png, write, shades):
    data = open_parquet(write(tmp_path / "d.parquet", [png(10), png(20), png(30)], [0, 2, 1], columns), 8)
    assert shades(data) == [10, 20, 30]
    assert data.labels.tolist() == [0, 2, 1]
    assert data.class_names == ("class 0", "class 1", "class 2")
    assert data.name == "d"
    assert data.target is None


def test_parquet_as_hugging_face_writes_it(tmp_path, png, write, shades):
    images = [{"bytes": png(10), "path": "a.png"}, {"bytes": png(20), "path": None}]
    features = {"image": {"_type": "Image"}, "label": {"names": ["banana", "lemon"], "_type": "ClassLabel"}}
    data = open_parquet(write(tmp_path / "d.parquet", images, [1, 0], features=features), 8)
    assert shades(data) == [10, 20]
    assert data.class_names == ("banana", "lemon")
    assert data.target == "banana"


def test_parquet_with_class_names(tmp_path, png, write):
    data = open_parquet(write(tmp_path / "d.parquet", [png(), png(), png()], ["pear", "fig", "pear"]), 8)
    assert data.class_names == ("fig", "pear")
    assert data.labels.tolist() == [1, 0, 1]


def test_class_names_beside_the_file(tmp_path, png, write):
    file = write(tmp_path / "d.parquet", [png(), png()], [1, 0])
    (tmp_path / "classes.json").write_text('["fig", "pear", "plum"]')
    assert open_parquet(file, 8).class_names == ("fig", "pear", "plum")
    file = write(tmp_path / "d.parquet", [png(), png()], ["plum", "fig"])
    assert open_parquet(file, 8).labels.tolist() == [2, 0]


def test_class_names_of_several_sets_in_any_order(tmp_path, png, write):
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
def test_unusable_class_names_are_refused(content, message, tmp_path, png, write):
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(DataError, match=message):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], [0, 0]), 8)


def test_names_that_classes_json_lacks_are_refused(tmp_path, png, write):
    (tmp_path / "classes.json").write_text('["fig", "pear"]')
    with pytest.raises(DataError, match=r"d\.parquet: its class names do not include \['plum'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], ["fig", "plum"]), 8)


def test_labels_out_of_range_are_refused(tmp_path, png, write):
    (tmp_path / "classes.json").write_text('["fig", "pear"]')
    with pytest.raises(DataError, match="label 2 is out of range for 2 classes"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], [0, 2]), 8)


@pytest.mark.parametrize("names", [True, False])
def test_negative_labels_are_refused(names, tmp_path, png, write):
    if names:
        (tmp_path / "classes.json").write_text('["fig", "pear"]')
    for labels in ([0, -1], [-1, -1]):
        with pytest.raises(DataError, match=r"row [01]: -1 cannot be the number of a class"):
            open_parquet(write(tmp_path / "d.parquet", [png(), png()], labels), 8)


def test_absurd_labels_are_refused_without_making_as_many_classes(tmp_path, png, write):
    with pytest.raises(DataError, match="row 1: 1000000000000 cannot be the number of a class"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], [0, 10**12]), 8)


@pytest.mark.parametrize("labels", [[0, None, 1], [None, "fig", "pear"], ["fig", "pear", None], [None, None, None]])
def test_labels_that_are_null_are_refused(labels, tmp_path, png, write):
    row = labels.index(None)
    with pytest.raises(DataError, match=rf"d\.parquet, row {row}: there is no label"):
        open_parquet(write(tmp_path / "d.parquet", [png()] * 3, labels), 8)


@pytest.mark.parametrize("labels", [[0.0, 1.0], [True, False], [[0], [1]], [b"fig", b"pear"]])
def test_labels_of_another_type_are_refused(labels, tmp_path, png, write):
    with pytest.raises(DataError, match="column 'label' must hold integers or class names"):
        open_parquet(write(tmp_path / "d.parquet", [png(), png()], labels), 8)


@pytest.mark.parametrize("missing", [None, {"bytes": None, "path": "gone.png"}, b"", b"not an image"])
def test_images_that_are_missing_or_broken_are_skipped_and_listed(missing, tmp_path, png, write):
    good = (
        [{"bytes": png(shade), "path": ""} for shade in (10, 30)] if isinstance(missing, dict) else [png(10), png(30)]
    )
    data = open_parquet(write(tmp_path / "d.parquet", [good[0], missing, good[1]], [0, 1, 1]), 8)
    images, labels = data.load()
    assert images[:, 0, 0, 0].tolist() == [10, 30]
    assert labels.tolist() == [0, 1]
    (line,) = data.skipped
    assert f"{tmp_path / 'd.parquet'}, row 1: not a readable image" in line


def test_an_image_column_of_something_else_is_refused(tmp_path, write):
    with pytest.raises(DataError, match="row 0: the image column must hold encoded bytes, not str"):
        open_parquet(write(tmp_path / "d.parquet", ["a.png", "b.png"], [0, 1]), 8)
    with pytest.raises(DataError, match="not list"):
        open_parquet(write(tmp_path / "d.parquet", [[1, 2], [3, 4]], [0, 1]), 8)


def test_missing_columns_are_named(tmp_path, png, write):
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


def test_truncated_parquet_is_refused(tmp_path, png, write):
    file = write(tmp_path / "d.parquet", [png()] * 4, [0, 1, 0, 1])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="not a readable parquet file"):
        open_parquet(file, 8)


def test_one_class_only_is_refused(tmp_path, png, write):
    with pytest.raises(DataError, match=r"needs two classes or more, has \['class 0'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png()] * 3, [0, 0, 0]), 8)
    with pytest.raises(DataError, match=r"needs two classes or more, has \['fig'\]"):
        open_parquet(write(tmp_path / "d.parquet", [png()] * 3, ["fig"] * 3), 8)


# --- folders of parquet files -----------------------------------------------------------------------------------------


def test_the_last_training_pictures_of_each_class_are_held_out(tmp_path, shades, parquet_folder):
    data = open_parquet_folder(parquet_folder(tmp_path / "set"), 8)
    assert shades(data.held_out) == list(range(10, 50))
    assert shades(data.train) == list(range(10))
    assert len(data.test) == 10
    assert data.held_out.labels[data.held_out.indices].bincount().tolist() == [20, 20]


def test_sets_are_chosen_by_name(tmp_path, shades, parquet_folder):
    folder = parquet_folder(tmp_path / "set")
    assert (open_parquet_folder(folder, 8).test.name, open_parquet_folder(folder, 8, "b").test.name) == ("set", "set:b")
    assert set(shades(open_parquet_folder(folder, 8, "b").test)) == {101}
    with pytest.raises(DataError, match=r"there is no set 'c', only \['a', 'b'\]"):
        open_parquet_folder(folder, 8, "c")


def test_without_training_pictures_a_fifth_of_the_test_pictures_is_held_out(tmp_path, parquet_folder):
    data = open_parquet_folder(parquet_folder(tmp_path / "set", train=0), 8)
    assert (len(data.test), len(data.held_out), data.train) == (8, 2, None)
    assert not set(data.test.indices.tolist()) & set(data.held_out.indices.tolist())


def test_a_folder_without_sets_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no file named SET-val\.parquet in it"):
        open_parquet_folder(tmp_path, 8)
