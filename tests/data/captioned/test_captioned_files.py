"""Captioned pictures in CSV, tar and parquet files, and what is wrong with some of them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_decomp.data.captioned import expand, is_captioned, open_captioned, parquets
from clip_decomp.errors import DataError
from clip_decomp.training.streams import pair_stream

SIZE = 8
CAPTIONS = ["a banana on a plate", "a red car", "two Bananas", "a red car", "bandana", "a dog, asleep"]


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("header", [("filepath", "title"), ("image_path", "caption"), ("image", "text")])
def test_separators_and_names_are_found(table, separator, header, whole, everything):
    assert whole(open_captioned(str(table(separator=separator, header=header)), SIZE)) == everything()


def test_other_columns_take_their_names(table, whole, everything):
    path = str(table(header=("where", "what")))
    assert whole(open_captioned(path, SIZE, image_column="where", caption_column="what")) == everything()
    with pytest.raises(DataError, match=r"no column with pictures \(looked for one of filepath.*has \['where', 'what'"):
        open_captioned(path, SIZE)
    with pytest.raises(DataError, match=r"no column with captions \(looked for 'who'\); it has \['where', 'what'\]"):
        open_captioned(path, SIZE, image_column="where", caption_column="who")


def test_what_pandas_writes_is_read(tmp_path, png, whole, everything):
    import pandas as pd

    captions = ['she said "banana", twice', "null", "two\nlines", "a\ttab", "café 香蕉"]
    for k in range(len(captions)):
        (tmp_path / f"{k}.png").write_bytes(png(10 * (k + 1)))
    paths = [str(tmp_path / f"{k}.png") for k in range(len(captions))]
    frame = pd.DataFrame({"title": captions, "license": "", "filepath": paths})
    for separator in "\t,":
        frame.to_csv(tmp_path / "pairs.tsv", sep=separator, index=False, encoding="utf-8-sig")
        assert whole(open_captioned(str(tmp_path / "pairs.tsv"), SIZE)) == everything(captions)


def test_lines_that_make_no_pair_are_skipped_and_listed(table, whole):
    path = table(["a", " ", "c"])
    path.write_text(path.read_text() + "\n0.png,oops\n0.png\ta\tb\n0.png\tfine\n\0.png\tzero byte\n")
    stream = open_captioned(str(path), SIZE)
    assert [(row, caption) for row, _, caption in whole(stream)] == [(0, "a"), (2, "c"), (5, "fine")]
    assert stream.skipped[0] == f"{path}, row 1: there is no caption"
    assert stream.skipped[1].startswith(f"{path}, row 3: 1 fields where the header has 2")
    assert stream.skipped[2].startswith(f"{path}, row 4: 3 fields where the header has 2")
    assert "row 6" in stream.skipped[3]


def test_a_quote_that_is_never_closed_does_not_swallow_pairs_silently(table):
    path = table(CAPTIONS * 3)
    path.write_text(path.read_text() + '0.png\t"open\n' + "1.png\tswallowed\n" * 9)
    (line,) = open_captioned(str(path), SIZE).skipped
    assert "row 18: its caption runs over 11 lines (is a quote missing?)" in line
    path.write_text(path.read_text() + "1.png\tswallowed\n" * 20_000)
    with pytest.raises(DataError, match=r"pairs\.csv: not a readable CSV file .*is a quote missing"):
        open_captioned(str(path), SIZE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty or has no header"),
        (b"\n\n", "the file is empty or has no header"),
        (b"filepath\ttitle\n", r"there are no pairs in it\. Its columns are \['filepath', 'title'\]"),
        (b"filepath,label\na.png,3\n", r"there is no column with captions .*it has \['filepath', 'label'\]"),
        (b"a.png\ta banana\n", "there is no column with pictures"),
        (b"filepath\ttitle\na.png\tcaf\xe9\n", "not a text file in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not a text file in UTF-8"),
    ],
)
def test_unusable_csv_is_refused(content, message, tmp_path):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"pairs\.csv: {message}"):
        open_captioned(str(tmp_path / "pairs.csv"), SIZE)


# --- shards -----------------------------------------------------------------------------------------------------------


def samples(png, first=0, captions=CAPTIONS):
    members = {}
    for k, caption in enumerate(captions):
        members[f"{first + k:03}.png"] = png(10 * (k + 1))
        members[f"{first + k:03}.txt"] = caption.encode()
    return members


def test_a_shard(shard, png, whole, everything):
    path = shard(samples(png))
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == everything()
    assert stream.source(2) == f"{path}/002.png"


def test_patterns_and_folders_of_shards(shard, png, tmp_path, whole):
    for k in range(3):
        shard(samples(png, 10 * k, CAPTIONS[:2]), f"shard-{k:03}.tar")
    for spec in (tmp_path, tmp_path / "shard-{000..002}.tar"):
        stream = open_captioned(str(spec), SIZE)
        assert [(row, shade) for row, shade, _ in whole(stream)] == [(k, 10 + 10 * (k % 2)) for k in range(6)]
    assert open_captioned(str(tmp_path / "shard-{000,002}.tar"), SIZE).length == 4
    with pytest.raises(DataError, match=r"shard-003\.tar: there is no such file \(of 4 that .* stands for, 1 are miss"):
        open_captioned(str(tmp_path / "shard-{000..003}.tar"), SIZE)


def test_captions_in_json_and_names_with_dots_and_folders(shard, png, whole):
    members = {
        "a/b.c/0.jpg": b"",
        "a/1.cls": b"3",
        "a/1.PNG": png(20),
        "a/1.json": json.dumps({"caption": "from json", "url": "x"}).encode(),
        "a/._2.png": b"leftover",
        "README": b"no sample",
        "a/2.seg.png": png(99),
        "a/2.png": png(30),
        "a/2.txt": b"plain text wins\n",
        "a/2.json": b'{"caption": "not me"}',
    }
    stream = open_captioned(str(shard(members)), SIZE)
    assert whole(stream) == [(1, 20, "from json"), (2, 30, "plain text wins")]
    assert "a/b.c/0: there is no picture among jpg" in stream.skipped[0]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"1.txt": b"a"}, "there is no picture among txt"),
        ({"1.png": b"x"}, "there is no caption among png"),
        ({"1.png": b"x", "1.txt": b"caf\xe9"}, "its caption cannot be read ('utf-8'"),
        ({"1.png": b"x", "1.json": b"{"}, "its caption cannot be read (Expecting"),
        ({"1.png": b"x", "1.json": b'{"caption": null}'}, "the JSON has no text under title or caption or text"),
        ({"1.png": b"x", "1.json": b"[]"}, "the JSON has no text"),
        ({"1.png": b"x", "1.txt": b" \n"}, "there is no caption"),
        ({"1.png": b"x", "1.txt": b"a" * (2 << 20)}, "2097152 bytes are too many"),
    ],
)
def test_samples_that_make_no_pair_are_skipped_and_listed(members, problem, shard, png, whole):
    path = shard({"0.png": png(10), "0.txt": b"fine", **members})
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == [(0, 10, "fine")]
    (line,) = stream.skipped
    assert line.startswith(f"{path}/1: ")
    assert problem in line


def test_a_truncated_shard_gives_what_is_whole(shard, png, whole):
    path = shard(samples(png))
    content = path.read_bytes()
    path.write_bytes(content[: 512 * 4 * 3 + 512 + 20])  # in the middle of the fourth picture
    stream = open_captioned(str(path), SIZE)
    assert [row for row, _, _ in whole(stream)] == [0, 1, 2]
    assert "the shard is damaged after 002.txt (unexpected end of data)" in stream.skipped[-1]


def test_a_bad_header_in_a_shard_is_listed(shard, png):
    path = shard(samples(png))
    content = bytearray(path.read_bytes())
    content[512 * 4 * 3 + 148] ^= 0xFF  # the checksum of the fourth picture's header
    path.write_bytes(content)
    stream = open_captioned(str(path), SIZE)
    assert stream.length == 3
    assert stream.skipped == [f"{path}: the shard is damaged after 002.txt (bad header)"]


def test_what_is_no_plain_tar_is_refused(shard, png, tmp_path):
    with pytest.raises(DataError, match=r"0\.tar: not a plain tar file .*unpack compressed shards"):
        open_captioned(str(shard(samples(png), mode="w:gz")), SIZE)
    (tmp_path / "x.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.tar: not a plain tar file"):
        open_captioned(str(tmp_path / "x.tar"), SIZE)
    with pytest.raises(DataError, match="there are no pairs in it"):
        open_captioned(str(shard({})), SIZE)


# --- parquet ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [("image", "caption"), ("jpg", "text"), ("img", "title")])
def test_a_parquet_file_by_row_groups(captioned_parquet, png, columns, whole, everything):
    path = captioned_parquet([png(10 * (k + 1)) for k in range(6)], CAPTIONS, columns)
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == everything()
    assert stream.source(3) == f"{path}, row 3"


def test_parquet_pictures_as_hugging_face_writes_them(captioned_parquet, png, tmp_path, whole):
    (tmp_path / "beside.png").write_bytes(png(20))
    images = [{"bytes": png(10), "path": "a.png"}, {"bytes": None, "path": "beside.png"}, {"bytes": None, "path": None}]
    stream = open_captioned(str(captioned_parquet(images, ["a", "b", "c"])), SIZE)
    assert whole(stream) == [(0, 10, "a"), (1, 20, "b")]
    assert stream.skipped == [f"{tmp_path / 'pairs.parquet'}, row 2: there is no picture"]


def test_parquet_pairs_that_are_incomplete_are_skipped_and_listed(captioned_parquet, png, whole):
    path = captioned_parquet([png(10), None, png(30), png(40)], ["a", "b", None, "d"])
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == [(0, 10, "a"), (3, 40, "d")]
    assert stream.skipped == [f"{path}, row 1: there is no picture", f"{path}, row 2: there is no caption"]


def test_row_groups_that_do_not_fit_are_read_again(captioned_parquet, png, monkeypatch, whole, everything):
    monkeypatch.setattr(parquets, "CACHE_BYTES", 1)
    stream = open_captioned(str(captioned_parquet([png(10 * (k + 1)) for k in range(6)], CAPTIONS)), SIZE)
    assert whole(stream) == everything()
    (groups,) = {id(entry.picture.groups): entry.picture.groups for entry in stream.table.entries}.values()
    assert len(groups.kept) == 1


def test_a_folder_of_parquet_files(captioned_parquet, png, tmp_path, whole, everything):
    for k in range(2):
        captioned_parquet([png(10 * (k + 1))], [CAPTIONS[k]], name=f"train-{k}-of-2.parquet")
    assert whole(open_captioned(str(tmp_path), SIZE)) == everything(CAPTIONS[:2])


def test_unusable_parquet_is_refused(captioned_parquet, png, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"x\.parquet: not a readable parquet file"):
        open_captioned(str(tmp_path / "x.parquet"), SIZE)
    path = str(captioned_parquet(["a.png"], ["a"]))
    with pytest.raises(DataError, match="column 'image' must hold encoded pictures"):
        open_captioned(path, SIZE)
    with pytest.raises(DataError, match=r"column 'caption' must hold texts, not list"):
        open_captioned(str(captioned_parquet([png()], [["a", "b"]])), SIZE)
    with pytest.raises(DataError, match=r"no column with captions .*it has \['image', 'words'\]"):
        open_captioned(str(captioned_parquet([png()], ["a"], ("image", "words"))), SIZE)
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match=r"there are no pairs in it\. Columns: \['image', 'text'\]"):
        open_captioned(path, SIZE)


# --- descriptions -----------------------------------------------------------------------------------------------------


def test_streams_of_captioned_files(table, shard, captioned_parquet, png, tmp_path):
    specs = (table(), shard(samples(png)), captioned_parquet([png()], ["a banana"]), tmp_path / "{pairs,pairs}.parquet")
    for spec in map(str, specs):
        stream, names = pair_stream(spec, SIZE, seed=5, smallest_crop=0.5, target="banana")
        assert names == ("banana",)
        assert (stream.seed, stream.smallest_crop, stream.class_name) == (5, 0.5, "banana")
        assert pair_stream(spec, SIZE)[1] == ()


def test_labelled_pictures_are_not_taken_for_captioned_ones(tmp_path, png, write, image_folder, shard):
    folder = image_folder(tmp_path / "classes")
    shard({}, "classes/leftover.tar")
    labelled = write(tmp_path / "labelled.parquet", [png(k) for k in range(10)], [k % 2 for k in range(10)])
    for spec in (str(folder), str(labelled), "world", str(tmp_path / "gone"), str(tmp_path / "gone.parquet")):
        assert not is_captioned(spec)
    assert pair_stream(str(folder), SIZE)[1] == ("fig", "pear")


def test_one_set_of_a_folder_of_photographs(tmp_path, png, write):
    for part in "ab":
        for half in ("train", "val"):
            write(tmp_path / f"{part}-{half}.parquet", [png(k) for k in range(50)], [k % 2 for k in range(50)])
    both, _ = pair_stream(str(tmp_path), SIZE)
    one, classes = pair_stream(f"{tmp_path}:b", SIZE)
    assert (both.length, one.length, len(classes)) == (2 * one.length, one.length, 2)
    with pytest.raises(DataError, match=r"there is no c-train\.parquet in"):
        pair_stream(f"{tmp_path}:c", SIZE)
    with pytest.raises(DataError, match=r"gone: there is no such file or folder"):
        pair_stream(f"{tmp_path / 'gone'}:a", SIZE)


@pytest.mark.parametrize("name", ["gone.csv", "gone.tar", "gone-{0..3}.tar"])
def test_files_that_are_not_there_are_named(name, tmp_path):
    with pytest.raises(DataError, match=r"gone(-0)?\.(csv|tar): there is no such file"):
        pair_stream(str(tmp_path / name), SIZE)


def test_other_descriptions_are_refused(tmp_path, table):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there are no \.tar or \.parquet files in this folder"):
        expand(str(tmp_path / "empty"))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(
        DataError, match=r"captioned pairs come from \.csv, \.tsv, \.tar and \.parquet files, not \.txt"
    ):
        open_captioned(str(tmp_path / "a.txt"), SIZE)
    table(name="b.csv")
    with pytest.raises(DataError, match="that stands for 2 files; CSV files are opened one at a time"):
        open_captioned(str(tmp_path / "{b,b}.csv"), SIZE)
    with pytest.raises(DataError, match="must count upward"):
        expand(str(tmp_path / "{9..1}.tar"))
