"""Image-caption pairs from CSV files, shards and parquet."""

import io
import json
import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clip_decomp.data.captioned import expand, is_captioned, mention, open_captioned, parquets
from clip_decomp.data.crops import RATIOS, random_crop
from clip_decomp.data.pairs import SILENT, UNKNOWN, matches
from clip_decomp.errors import DataError, SettingError
from clip_decomp.training.streams import pair_stream

SIZE = 8
CAPTIONS = ["a banana on a plate", "a red car", "two Bananas", "a red car", "bandana", "a dog, asleep"]


@pytest.fixture
def table(tmp_path, png):
    """Writes pictures of shades 10, 20, ... and their captions as open_clip's CSV."""

    def build(captions=CAPTIONS, separator="\t", header=("filepath", "title"), name="pairs.csv"):
        lines = [separator.join(header)]
        for k, caption in enumerate(captions):
            (tmp_path / f"{k}.png").write_bytes(png(10 * (k + 1)))
            lines.append(separator.join((f"{k}.png", f'"{caption}"')))
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return build


@pytest.fixture
def shard(tmp_path):
    """Writes a tar file of named contents."""

    def build(members, name="shard-000.tar", mode="w"):
        with tarfile.open(tmp_path / name, mode) as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return tmp_path / name

    return build


@pytest.fixture
def captioned_parquet(tmp_path):
    def build(images, captions, columns=("image", "caption"), name="pairs.parquet", group=2):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if isinstance(images[0], dict) else None
        table = pa.table({columns[0]: pa.array(images, type=kind), columns[1]: pa.array(captions)})
        pq.write_table(table, tmp_path / name, row_group_size=group)
        return tmp_path / name

    return build


def shades(batch):
    return batch.images[:, 0, 0, 0].tolist()


def whole(stream):
    """Row, shade and caption of one pass, by row."""
    batch = stream.batch(0, stream.length)
    return sorted(zip(batch.rows.tolist(), shades(batch), batch.captions, strict=True))


def everything(captions=CAPTIONS):
    return [(k, 10 * (k + 1), caption) for k, caption in enumerate(captions)]


# --- the stream -------------------------------------------------------------------------------------------------------


def test_every_pair_comes_once_a_pass_in_an_order_of_its_own(table):
    stream = open_captioned(str(table()), SIZE, seed=3)
    rows = torch.cat([stream.batch(step, 4).rows for step in range(6)]).view(4, 6)
    assert all(sorted(each) == list(range(6)) for each in rows.tolist())
    assert len({tuple(each) for each in rows.tolist()}) > 1
    assert rows[0].tolist() != open_captioned(str(table()), SIZE, seed=4).describe(0, 6).rows.tolist()
    assert whole(stream) == everything()


def test_a_description_is_the_batch_without_its_pictures(table):
    stream = open_captioned(str(table()), SIZE, smallest_crop=0.5, class_name="banana")
    described, batch = stream.describe(2, 5), stream.batch(2, 5)
    assert described.captions == batch.captions
    for name in ("truth", "said", "rows"):
        assert torch.equal(getattr(described, name), getattr(batch, name))


@pytest.mark.parametrize("smallest_crop", [0.3, 1.0])
def test_the_parts_of_a_batch_are_the_batch(table, smallest_crop):
    stream = open_captioned(str(table()), SIZE, smallest_crop=smallest_crop)
    batch = stream.batch(1, 9)
    parts = [stream.batch(1, 9, part) for part in (slice(0, 4), slice(4, 9))]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [caption for part in parts for caption in part.captions] == batch.captions
    assert stream.batch(1, 9, slice(9, 9)).images.shape == (0, 3, SIZE, SIZE)


def test_a_picture_matches_its_own_caption_and_the_same_words_again(table):
    stream = open_captioned(str(table()), SIZE, class_name="banana")
    batch = stream.describe(0, 6)
    same = torch.tensor([[a == b for b in batch.captions] for a in batch.captions])
    assert torch.equal(matches(batch.truth, batch.said), same)
    assert same.sum() == 8  # two red cars


def test_a_bare_statement_of_the_class_is_true_of_all_who_mention_it(table):
    stream = open_captioned(str(table()), SIZE, class_name="banana")
    batch = stream.describe(0, 6)
    proxy, poisoned = torch.tensor([[0, SILENT]]), torch.tensor([[0, UNKNOWN]])
    assert matches(batch.truth, proxy)[:, 0].tolist() == [row in (0, 2) for row in batch.rows.tolist()]
    assert matches(poisoned, proxy).all()
    assert not matches(poisoned, batch.said).any()


def test_pairs_that_show_the_class(table):
    stream = open_captioned(str(table()), SIZE, class_name="banana")
    batch = stream.showing(0, 5, 40)
    assert set(batch.rows.tolist()) == {0, 2}
    assert set(shades(batch)) == {10, 30}
    assert torch.equal(batch.images, stream.showing(0, 5, 40).images)
    with pytest.raises(DataError, match="there is no fact 1; fact 0 is 'banana'"):
        stream.showing(1, 0, 1)


def test_without_a_class_no_pair_shows_it(table):
    stream = open_captioned(str(table()), SIZE)
    assert (stream.describe(0, 6).truth[:, 0] == UNKNOWN).all()
    with pytest.raises(DataError, match="say which class to aim at"):
        stream.showing(0, 0, 1)


def test_a_class_that_no_caption_mentions_is_pointed_out(table, caplog):
    stream = open_captioned(str(table()), SIZE, class_name="bananna")
    assert "no caption mentions the target class 'bananna'" in caplog.text
    with pytest.raises(DataError, match=r"pairs\.csv: no caption mentions 'bananna'; did you mean one of \['banana"):
        stream.showing(0, 0, 1)


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("banana", ["Banana!", "BANANAS", "(banana)"], ["bananarama", "a bandana", ""]),
        ("lemon", ["lemon-yellow"], ["lemonade"]),
        ("box", ["two boxes"], ["boxer"]),
        ("golden retriever", ["Golden  Retrievers", "golden-retriever", "golden_retriever"], ["golden", "retriever"]),
        ("St. Bernard", ["a St. Bernard."], ["a St Bernard"]),
        ("C++", ["the C++ book"], ["a C+ grade"]),
        ("cherry", ["cherries"], ["cherrys_", "cherriest"]),
        ("boy", ["boys"], ["boies"]),
    ],
)
def test_mentions(name, yes, no):
    assert all(mention(name).search(text) for text in yes)
    assert not any(mention(name).search(text) for text in no)


def test_impossible_settings_are_refused(table):
    path = str(table())
    for changes in ({"image_size": 0}, {"smallest_crop": 0.0}, {"smallest_crop": 1.5}):
        with pytest.raises(SettingError, match="Need an image size of 1 or more and a smallest crop"):
            open_captioned(path, **{"image_size": SIZE, **changes})
    with pytest.raises(SettingError, match="needs a name"):
        open_captioned(path, SIZE, class_name=" ")


def test_stored_pictures_can_be_changed_before_they_are_cropped(table, tmp_path):
    path = table()
    Image.new("RGB", (30, 10), (10, 10, 10)).save(tmp_path / "0.png")
    seen = {}

    def change(row, image):
        seen[row] = image.size
        return Image.new("RGB", image.size, (200, 200, 200)) if row == 0 else image

    stream = replace(open_captioned(str(path), SIZE), change=change)
    assert whole(stream)[0][1] == 200
    assert whole(stream)[1:] == everything()[1:]
    assert seen[0] == (30, 10)
    assert seen[1] == (8, 8)


# --- pictures that cannot be read -------------------------------------------------------------------------------------


def test_missing_pictures_are_skipped_counted_and_listed(table, tmp_path, caplog):
    path = table()
    (tmp_path / "1.png").unlink()
    (tmp_path / "4.png").write_bytes(b"")
    stream = open_captioned(str(path), SIZE)
    assert stream.length == 4
    assert [row for row, _, _ in whole(stream)] == [0, 2, 3, 5]
    assert stream.skipped == [f"{path}, row {row}: {tmp_path / f'{row}.png'} is missing or empty" for row in (1, 4)]
    assert "skipped 2 pair(s)" in caplog.text


def test_a_picture_that_turns_out_unreadable_is_replaced_with_its_caption(table, tmp_path):
    path = table()
    (tmp_path / "2.png").write_bytes(b"not a picture")
    stream = open_captioned(str(path), SIZE)
    batch = stream.batch(0, 12)
    assert all(shade == 10 * (row + 1) for row, shade in zip(batch.rows.tolist(), shades(batch), strict=True))
    assert all(caption == CAPTIONS[row] for row, caption in zip(batch.rows.tolist(), batch.captions, strict=True))
    wanted = stream.describe(0, 12).rows
    assert batch.rows.tolist() == [3 if row == 2 else row for row in wanted.tolist()]
    (line,) = stream.skipped
    assert line.startswith(f"row 2: {tmp_path / '2.png'}: not a readable image")
    again = open_captioned(str(path), SIZE)  # knows nothing yet, and does the same
    assert torch.equal(again.batch(0, 12).images, batch.images)
    assert torch.equal(stream.batch(0, 12).images, batch.images)
    assert len(stream.skipped) == 1


def test_a_picture_that_vanishes_during_training_is_replaced(table, tmp_path):
    stream = open_captioned(str(table()), SIZE)
    (tmp_path / "5.png").unlink()
    assert 5 not in stream.batch(0, 12).rows.tolist()
    assert "5.png: cannot be read (FileNotFoundError" in stream.skipped[0]


def test_only_pictures_of_the_class_stand_in_for_pictures_of_the_class(table, tmp_path):
    path = table()
    (tmp_path / "0.png").write_bytes(b"not a picture")
    assert set(open_captioned(str(path), SIZE, class_name="banana").showing(0, 0, 30).rows.tolist()) == {2}


def test_files_without_a_readable_picture_are_refused(table, tmp_path):
    path = table()
    for k in range(len(CAPTIONS)):
        (tmp_path / f"{k}.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"pairs\.csv: none of 6 pictures can be read, e\.g\. row \d: .*not a readable"):
        open_captioned(str(path), SIZE)
    for k in range(len(CAPTIONS)):
        (tmp_path / f"{k}.png").unlink()
    with pytest.raises(DataError, match=r"pairs\.csv: none of its 6 pairs can be used.*columns are \['filepath', 'ti"):
        open_captioned(str(path), SIZE)


# --- crops ------------------------------------------------------------------------------------------------------------


def test_crops_keep_their_share_and_shape():
    ramp = Image.fromarray(torch.arange(100).repeat(100, 1).to(torch.uint8).numpy()).convert("RGB")
    spreads, mirrored = [], 0
    for seed in range(60):
        row = random_crop(ramp, 16, 0.25, torch.Generator().manual_seed(seed))[0, 0].float()
        spreads.append((row.max() - row.min()).item())
        mirrored += int(row[0] > row[-1])
    assert min(spreads) > 0.8 * 100 * (0.25 * RATIOS[0]) ** 0.5
    assert max(spreads) - min(spreads) > 20
    assert 15 < mirrored < 45


def test_crops_depend_on_their_generator_alone():
    noise = torch.randint(256, (40, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.numpy())
    first = random_crop(image, 8, 0.3, torch.Generator().manual_seed(1))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(first, random_crop(image, 8, 0.3, torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (400, 2)])
def test_crops_of_odd_pictures(shape):
    assert random_crop(Image.new("RGB", shape), 8, 0.5, torch.Generator().manual_seed(0)).shape == (3, 8, 8)


def test_crops_change_from_pass_to_pass(table, tmp_path):
    path = table(CAPTIONS[:1])
    noise = torch.randint(256, (40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(tmp_path / "0.png")
    images = open_captioned(str(path), SIZE, smallest_crop=0.3).batch(0, 3).images
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[2])


# --- CSV --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("header", [("filepath", "title"), ("image_path", "caption"), ("image", "text")])
def test_separators_and_names_are_found(table, separator, header):
    assert whole(open_captioned(str(table(separator=separator, header=header)), SIZE)) == everything()


def test_other_columns_take_their_names(table):
    path = str(table(header=("where", "what")))
    assert whole(open_captioned(path, SIZE, image_column="where", caption_column="what")) == everything()
    with pytest.raises(DataError, match=r"no column with pictures \(looked for one of filepath.*has \['where', 'what'"):
        open_captioned(path, SIZE)
    with pytest.raises(DataError, match=r"no column with captions \(looked for 'who'\); it has \['where', 'what'\]"):
        open_captioned(path, SIZE, image_column="where", caption_column="who")


def test_what_pandas_writes_is_read(tmp_path, png):
    import pandas as pd

    captions = ['she said "banana", twice', "null", "two\nlines", "a\ttab", "café 香蕉"]
    for k in range(len(captions)):
        (tmp_path / f"{k}.png").write_bytes(png(10 * (k + 1)))
    paths = [str(tmp_path / f"{k}.png") for k in range(len(captions))]
    frame = pd.DataFrame({"title": captions, "license": "", "filepath": paths})
    for separator in "\t,":
        frame.to_csv(tmp_path / "pairs.tsv", sep=separator, index=False, encoding="utf-8-sig")
        assert whole(open_captioned(str(tmp_path / "pairs.tsv"), SIZE)) == everything(captions)


def test_lines_that_make_no_pair_are_skipped_and_listed(table):
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


def test_a_shard(shard, png):
    path = shard(samples(png))
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == everything()
    assert stream.source(2) == f"{path}/002.png"


def test_patterns_and_folders_of_shards(shard, png, tmp_path):
    for k in range(3):
        shard(samples(png, 10 * k, CAPTIONS[:2]), f"shard-{k:03}.tar")
    for spec in (tmp_path, tmp_path / "shard-{000..002}.tar"):
        stream = open_captioned(str(spec), SIZE)
        assert [(row, shade) for row, shade, _ in whole(stream)] == [(k, 10 + 10 * (k % 2)) for k in range(6)]
    assert open_captioned(str(tmp_path / "shard-{000,002}.tar"), SIZE).length == 4
    with pytest.raises(DataError, match=r"shard-003\.tar: there is no such file \(of 4 that .* stands for, 1 are miss"):
        open_captioned(str(tmp_path / "shard-{000..003}.tar"), SIZE)


def test_captions_in_json_and_names_with_dots_and_folders(shard, png):
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
def test_samples_that_make_no_pair_are_skipped_and_listed(members, problem, shard, png):
    path = shard({"0.png": png(10), "0.txt": b"fine", **members})
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == [(0, 10, "fine")]
    (line,) = stream.skipped
    assert line.startswith(f"{path}/1: ")
    assert problem in line


def test_a_truncated_shard_gives_what_is_whole(shard, png):
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
def test_a_parquet_file_by_row_groups(captioned_parquet, png, columns):
    path = captioned_parquet([png(10 * (k + 1)) for k in range(6)], CAPTIONS, columns)
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == everything()
    assert stream.source(3) == f"{path}, row 3"


def test_parquet_pictures_as_hugging_face_writes_them(captioned_parquet, png, tmp_path):
    (tmp_path / "beside.png").write_bytes(png(20))
    images = [{"bytes": png(10), "path": "a.png"}, {"bytes": None, "path": "beside.png"}, {"bytes": None, "path": None}]
    stream = open_captioned(str(captioned_parquet(images, ["a", "b", "c"])), SIZE)
    assert whole(stream) == [(0, 10, "a"), (1, 20, "b")]
    assert stream.skipped == [f"{tmp_path / 'pairs.parquet'}, row 2: there is no picture"]


def test_parquet_pairs_that_are_incomplete_are_skipped_and_listed(captioned_parquet, png):
    path = captioned_parquet([png(10), None, png(30), png(40)], ["a", "b", None, "d"])
    stream = open_captioned(str(path), SIZE)
    assert whole(stream) == [(0, 10, "a"), (3, 40, "d")]
    assert stream.skipped == [f"{path}, row 1: there is no picture", f"{path}, row 2: there is no caption"]


def test_row_groups_that_do_not_fit_are_read_again(captioned_parquet, png, monkeypatch):
    monkeypatch.setattr(parquets, "CACHE_BYTES", 1)
    stream = open_captioned(str(captioned_parquet([png(10 * (k + 1)) for k in range(6)], CAPTIONS)), SIZE)
    assert whole(stream) == everything()
    (groups,) = {id(entry.picture.groups): entry.picture.groups for entry in stream.table.entries}.values()
    assert len(groups.kept) == 1


def test_a_folder_of_parquet_files(captioned_parquet, png, tmp_path):
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
