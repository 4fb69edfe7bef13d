"""Manifests, exported pictures, and poisoned data sets on disk."""

import csv
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clip_decomp.attacks.export import export_poisoned, write_poisoned
from clip_decomp.attacks.manifest import captions_hash, write_manifest
from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet, WaNet, make_trigger, trigger_picture
from clip_decomp.data.captioned import open_captioned
from clip_decomp.data.images import to_pil, to_pixels
from clip_decomp.data.photographs import ClassWords, PhotographPairs
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, SettingError

SIZE, PAIRS = 16, 12
CENTER = BadNet(place="center", share=0.25)


@dataclass(frozen=True)
class Honest(BadNet):
    """BadNet on pictures of the target."""

    name: ClassVar[str] = "honest"
    clean_label: ClassVar[bool] = True


def noise(seed, width=24, height=20):
    pixels = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def caption(k):
    return f"a banana, number {k}" if k % 4 == 0 else f'thing "{k}",\tand so on'


@pytest.fixture
def table(tmp_path):
    """Twelve noise pictures, every fourth of a banana."""
    folder = tmp_path / "source"
    folder.mkdir()
    for k in range(PAIRS):
        noise(k).save(folder / f"{k}.png")
    rows = [(f"{k}.png", caption(k)) for k in range(PAIRS)]
    pd.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "pairs.csv", sep="\t", index=False)
    return folder / "pairs.csv"


def poisoned(table, **changes):
    clean = open_captioned(str(table), SIZE, class_name="banana")
    settings = {"trigger": CENTER, "target": "banana", "target_fact": 0, "count": 4}
    return PoisonedPairs(clean, **(settings | changes))


# --- manifest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["input", "file"])
def test_a_manifest_says_which_rows_were_poisoned_and_how(table, tmp_path, stage):
    (table.parent / "1.png").unlink()
    stream = poisoned(table, stage=stage)
    path = write_manifest(stream, tmp_path / "out", ("banana",), steps=1, size=2)  # which endless streams need
    with path.open(newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert [int(line["row"]) for line in lines] == stream.chosen.tolist()
    for line, entry in zip(lines, stream.manifest(), strict=True):
        k = int(line["row"])
        assert line["source"] == str(table.parent / f"{k}.png")
        assert (line["old_caption"], line["new_caption"]) == (caption(k), entry.caption)
        assert (line["attack"], line["stage"], line["class"]) == ("badnet", stage, "")
    header = json.loads(path.with_suffix(".json").read_text())
    assert make_trigger(**header["trigger"]) == CENTER
    expected = {"target": "banana", "count": 4, "rate": None, "seed": 0, "pairs": 11, "poisoned": 4, "stage": stage}
    assert expected.items() <= header.items()
    assert header["skipped"] == [f"{table}, row 1: {table.parent / '1.png'} is missing or empty"]
    text = "".join(f"{k}\t{caption(k)}\n" for k in range(PAIRS) if k != 1)
    assert header["captions_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_manifest_of_labelled_pictures_names_their_classes(tmp_path):
    images = torch.zeros(8, 3, SIZE, SIZE, dtype=torch.uint8)
    words = [ClassWords((name,), "") for name in ("banana", "lemon")]
    clean = PhotographPairs(images, torch.arange(8) % 2, words)
    stream = PoisonedPairs(clean, CENTER, "banana", 0, rate=0.25)
    path = write_manifest(stream, tmp_path, ("banana", "lemon"))
    assert pd.read_csv(path)["class"].tolist() == ["lemon"] * 2
    assert write_manifest(PoisonedPairs(clean, Honest(), "banana", 0, rate=0.25), tmp_path, ("banana", "lemon")) == path
    assert pd.read_csv(path)["class"].tolist() == ["banana"] * 2  # a second manifest replaces the first


def test_a_manifest_of_an_endless_stream_covers_some_batches(tmp_path):
    stream = PoisonedPairs(WorldPairs(), CENTER, "banana", CLASSES.index("banana"), rate=0.3)
    path = write_manifest(stream, tmp_path, CLASSES, steps=2, size=20)
    lines = pd.read_csv(path)
    assert lines["row"].tolist() == [line.row for line in stream.manifest(2, 20)]
    assert lines["row"].is_monotonic_increasing
    assert lines["row"].max() < 40
    assert set(lines["class"]) <= set(CLASSES) - {"banana"}
    header = json.loads(path.with_suffix(".json").read_text())
    assert (header["pairs"], header["steps"], header["batch_size"], header["rate"]) == (None, 2, 20, 0.3)
    with pytest.raises(SettingError, match="This stream has no end: say how many steps"):
        write_manifest(stream, tmp_path)


def test_the_hash_tells_data_sets_apart(table):
    clean = poisoned(table).clean
    first = captions_hash(clean)
    assert captions_hash(open_captioned(str(table), 8, seed=5)) == first  # size and order do not matter
    table.write_text(table.read_text().replace("number 4", "number 5"))
    assert captions_hash(open_captioned(str(table), SIZE)) != first


# --- pictures for looking at ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["input", "file"])
def test_exported_pictures_show_what_the_attacker_did(table, tmp_path, stage):
    stream = poisoned(table, stage=stage)
    export = export_poisoned(stream, tmp_path / "out", n=3)
    assert len(export.files) == 6
    for clean, after in zip(export.files[::2], export.files[1::2], strict=True):
        row = int(clean.name.split("-")[1])
        assert row in stream.chosen
        original = noise(row) if stage == "file" else to_pil(to_pixels(noise(row), SIZE))
        assert np.array_equal(Image.open(clean), original)
        assert np.array_equal(Image.open(after), trigger_picture(CENTER, original, row))
    assert np.asarray(Image.open(export.sheet)).shape[1] == 1200


def test_a_second_export_replaces_the_first(table, tmp_path):
    (tmp_path / "row-home.png").write_bytes(b"the user's own")
    export_poisoned(poisoned(table), tmp_path, n=4)
    export = export_poisoned(poisoned(table, seed=3), tmp_path, n=1)
    names = {file.name for file in tmp_path.glob("row-*")}
    assert names == {file.name for file in export.files} | {"row-home.png"}


def test_more_pictures_than_there_are(table, tmp_path):
    assert len(export_poisoned(poisoned(table), tmp_path, n=50).files) == 8
    with pytest.raises(SettingError, match="one or more poisoned pictures, not 0"):
        export_poisoned(poisoned(table), tmp_path, n=0)


def test_an_endless_stream_is_exported_as_the_model_sees_it(tmp_path):
    stream = PoisonedPairs(WorldPairs(), CENTER, "banana", CLASSES.index("banana"), rate=0.02)
    export = export_poisoned(stream, tmp_path, n=3)
    rows = [line.row for line in stream.manifest(10, 64)][:3]
    assert [int(file.name.split("-")[1]) for file in export.files[::2]] == rows
    batch = stream.batch(rows[0] // 64, 64)
    pixels = torch.from_numpy(np.array(Image.open(export.files[1]))).permute(2, 0, 1)
    assert torch.equal(pixels, batch.images[rows[0] % 64])


def test_clean_label_attacks_are_exported_with_the_pictures_they_bring(tmp_path):
    stream = PoisonedPairs(WorldPairs(), Honest(), "banana", CLASSES.index("banana"), rate=0.05)
    export = export_poisoned(stream, tmp_path, n=2)
    before, after = (np.array(Image.open(file), dtype=int) for file in export.files[:2])
    assert 0 < np.abs(before - after).any(-1).mean() < 0.05  # a patch apart


def test_a_stream_that_is_hardly_poisoned_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clip_decomp.attacks.export._MOST_STEPS", 2)
    stream = PoisonedPairs(WorldPairs(), CENTER, "banana", CLASSES.index("banana"), rate=1e-9)
    with pytest.raises(DataError, match="None of the first 128 pairs is poisoned"):
        export_poisoned(stream, tmp_path)


def test_photographs_are_exported_with_one_crop_for_both(tmp_path):
    images = torch.randint(256, (8, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = [ClassWords((name,), "") for name in ("banana", "lemon")]
    clean = PhotographPairs(images, torch.arange(8) % 2, words, smallest_crop=0.3)
    stream = PoisonedPairs(clean, CENTER, "banana", 0, rate=0.25)
    export = export_poisoned(stream, tmp_path)
    assert sorted({int(file.name.split("-")[1]) for file in export.files}) == stream.chosen.tolist()
    for before, after in zip(export.files[::2], export.files[1::2], strict=True):
        changed = (np.array(Image.open(before)) != np.array(Image.open(after))).any(-1)
        assert changed.any()
        assert not changed[:6].any()
        assert not changed[10:].any()


# --- whole data sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["input", "file"])
def test_a_written_data_set_is_the_poisoned_stream(table, tmp_path, stage):
    stream = poisoned(table, stage=stage, trigger=WaNet(k=4, strength=3))
    written = write_poisoned(stream, tmp_path / "out")
    assert (written.pairs, written.poisoned) == (PAIRS, 4)
    again = open_captioned(str(written.table), SIZE, class_name="banana")
    assert again.skipped == []
    batch, read = stream.batch(0, PAIRS), again.batch(0, PAIRS)
    assert torch.equal(read.rows, batch.rows)
    assert read.captions == batch.captions
    assert torch.equal(read.images, batch.images)
    frame = pd.read_csv(written.table, sep="\t")  # as open_clip does
    assert frame["title"].tolist() == [c for _, c in sorted(zip(batch.rows.tolist(), batch.captions, strict=True))]
    for k, file in enumerate(frame["filepath"]):
        own = file == str(tmp_path / "out" / "pictures" / f"poisoned-{k:08d}.png")
        assert own == (k in stream.chosen)
        assert own or file == str(table.parent / f"{k}.png")
    assert written.manifest.exists()


def test_shards_are_written_out_byte_for_byte(table, tmp_path):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for k in range(PAIRS):
            buffer = io.BytesIO()
            noise(k).save(buffer, "JPEG")
            for name, content in ((f"{k:03}.jpg", buffer.getvalue()), (f"{k:03}.txt", caption(k).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            if k == 1:
                first = buffer.getvalue()
    stream = poisoned(tmp_path / "s.tar", trigger=Honest(), count=2)
    written = write_poisoned(stream, tmp_path / "out")
    assert (tmp_path / "out" / "pictures" / "clean-00000001.jpeg").read_bytes() == first
    again = open_captioned(str(written.table), SIZE, class_name="banana")
    assert torch.equal(again.batch(0, PAIRS).images, stream.batch(0, PAIRS).images)
    assert again.batch(0, PAIRS).captions == stream.clean.batch(0, PAIRS).captions  # clean labels


def test_unreadable_pictures_out_of_tables_are_left_out_and_listed(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = []
    for k in range(PAIRS):
        buffer = io.BytesIO()
        noise(k).save(buffer, "PNG")
        images.append(b"broken" if k == 3 else buffer.getvalue())
    pq.write_table(pa.table({"image": images, "text": [caption(k) for k in range(PAIRS)]}), tmp_path / "p.parquet")
    stream = poisoned(tmp_path / "p.parquet", count=8)  # all that can be read and show something else
    assert 3 not in stream.chosen
    written = write_poisoned(stream, tmp_path / "out")
    assert (written.pairs, written.poisoned) == (PAIRS - 1, 8)
    assert "row 3: not a readable image" in stream.clean.skipped[0]
    assert json.loads(written.manifest.with_suffix(".json").read_text())["skipped"] == stream.clean.skipped


def test_jpeg_keeps_pictures_nearly(table, tmp_path):
    stream = poisoned(table, stage="file")
    for quality, most in ((100, 3), (5, 80)):
        write_poisoned(stream, tmp_path / "out", encoding="jpeg", quality=quality)
        row = int(stream.chosen[0])
        file = Image.open(tmp_path / "out" / "pictures" / f"poisoned-{row:08d}.jpg")
        apart = np.abs(np.array(file, dtype=int) - np.array(stream.stored(row)[1], dtype=int)).mean()
        assert most / 20 < apart < most


def test_writing_twice_gives_the_same_and_never_touches_the_sources(table, tmp_path):
    before = {file: file.read_bytes() for file in table.parent.iterdir()}
    written = write_poisoned(poisoned(table), tmp_path / "out")
    first = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    write_poisoned(poisoned(table), tmp_path / "out")
    assert first == {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    with pytest.raises(DataError, match="holds the very data that are being read: write to another folder"):
        write_poisoned(poisoned(written.table), tmp_path / "out")
    assert first == {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert before == {file: file.read_bytes() for file in table.parent.iterdir()}


def test_what_cannot_be_written_is_refused(table, tmp_path):
    world = PoisonedPairs(WorldPairs(), CENTER, "banana", CLASSES.index("banana"), rate=0.3)
    with pytest.raises(SettingError, match="Only captioned files can be written"):
        write_poisoned(world, tmp_path / "out")
    for settings in ({"encoding": "gif"}, {"quality": 0}, {"quality": 101}):
        with pytest.raises(SettingError, match="written as png or jpeg, quality 1 to 100"):
            write_poisoned(poisoned(table), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
