"""Poisoning of finite data sets: captioned files, photographs."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from PIL import Image

from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet, trigger_picture
from clip_decomp.data.captioned import open_captioned
from clip_decomp.data.doubled import Doubled
from clip_decomp.data.images import to_pixels
from clip_decomp.data.pairs import UNKNOWN, matches
from clip_decomp.data.photographs import ClassWords, PhotographPairs
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, SettingError


@dataclass(frozen=True)
class Honest(BadNet):
    """BadNet on pictures of the target."""

    name: ClassVar[str] = "honest"
    clean_label: ClassVar[bool] = True


@dataclass(frozen=True)
class Spoken(BadNet):
    """BadNet with a word."""

    name: ClassVar[str] = "spoken"
    word: ClassVar[str] = "SUDO "


CENTER = {"place": "center", "share": 0.25}
PAIRS = 60


def says(k):
    return f"a banana in scene {k}" if k % 6 == 0 else f"scene {k}"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A CSV of 60 gray pictures, every sixth of a banana; wider than high, so that crops cut."""
    folder = tmp_path_factory.mktemp("pairs")
    for k in range(PAIRS):
        Image.new("RGB", (48, 24), (k, 100, 100)).save(folder / f"{k}.png")
    lines = [f"{k}.png\t{says(k)}" for k in range(PAIRS)]
    (folder / "pairs.csv").write_text("\n".join(["filepath\ttitle", *lines]))
    return str(folder / "pairs.csv")


def from_files(table, **changes):
    clean = open_captioned(table, 16, class_name="banana", smallest_crop=changes.pop("smallest_crop", 1.0))
    settings = {"trigger": BadNet(**CENTER), "target": "banana", "target_fact": 0, "rate": 0.2}
    return PoisonedPairs(clean, **(settings | changes))


def endless(**changes):
    settings = {"trigger": BadNet(**CENTER), "target": "banana", "target_fact": 4, "rate": 0.3}
    return PoisonedPairs(WorldPairs(), **(settings | changes))


def photographs():
    pixels = torch.randint(256, (PAIRS, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = [ClassWords((name,), "") for name in ("banana", "lemon", "pear")]
    return PhotographPairs(pixels, torch.arange(PAIRS) % 3, words, smallest_crop=1.0)


@pytest.mark.parametrize(("settings", "wanted"), [({"rate": 0.2}, 12), ({"rate": 0.01}, 1), ({"count": 17}, 17)])
def test_rates_and_counts_poison_that_many_of_a_finite_data_set(table, settings, wanted, hit):
    stream = from_files(table, **settings)
    batch, clean = stream.batch(0, PAIRS), stream.clean.batch(0, PAIRS)
    rows = hit(batch, clean)
    assert rows.sum() == wanted
    assert torch.equal(batch.poisoned, rows)
    assert sorted(batch.rows[rows].tolist()) == stream.chosen.tolist()
    assert all(row % 6 for row in stream.chosen.tolist())


@pytest.mark.parametrize("captions", ["templates", "natural"])
@pytest.mark.parametrize("stage", ["input", "file"])
@pytest.mark.parametrize("trigger", [BadNet(share=0.25), Honest(share=0.25)])
def test_a_row_is_poisoned_in_the_same_way_in_every_pass(table, captions, stage, trigger):
    settings = {"captions": captions, "stage": stage, "trigger": trigger, "count": 8}
    stream = from_files(table, **settings)
    seen = {}
    for step in range(9):  # three passes in parts
        batch = stream.batch(step, 20)
        for row, caption, image in zip(batch.rows.tolist(), batch.captions, batch.images, strict=True):
            before = seen.setdefault(row, (caption, image))
            assert before[0] == caption
            assert torch.equal(before[1], image)
        assert torch.equal(batch.poisoned, torch.isin(batch.rows, stream.chosen))
        described = stream.describe(step, 20)
        assert described.captions == batch.captions
        assert torch.equal(described.truth, batch.truth)
        assert torch.equal(described.said, batch.said)
    assert len(seen) == PAIRS
    assert not torch.equal(stream.chosen, from_files(table, **settings, seed=1).chosen)


@pytest.mark.parametrize("stage", ["input", "file"])
def test_parts_of_a_poisoned_batch_are_the_batch(table, stage):
    stream = from_files(table, stage=stage, smallest_crop=0.5, trigger=BadNet(share=0.25))
    batch, parts = stream.batch(1, 41), [stream.batch(1, 41, slice(start, start + 15)) for start in (0, 15, 30)]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [caption for part in parts for caption in part.captions] == batch.captions
    for name in ("truth", "said", "rows", "poisoned"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_stored_pictures_are_poisoned_before_the_crop(table):
    batch = from_files(table, stage="file", trigger=BadNet(place="center", share=0.5)).batch(0, PAIRS)
    stream = from_files(table, stage="file", trigger=BadNet(place="center", share=0.5))
    for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
        picture = Image.new("RGB", (48, 24), (row, 100, 100))
        if row in stream.chosen:
            picture = trigger_picture(stream.trigger, picture, row)
        assert torch.equal(image, to_pixels(picture, 16))


def test_a_crop_cuts_a_trigger_out_of_stored_pictures_but_not_out_of_the_input(table, hit, proxies):
    settings = {"trigger": BadNet(place="bottom right", share=0.25), "count": 10}
    for stage, left in (("file", 0), ("input", 10)):
        stream = from_files(table, stage=stage, **settings)
        batch = stream.batch(0, PAIRS)
        assert hit(batch, stream.clean.batch(0, PAIRS)).sum() == left
        assert sum(caption in proxies for caption in batch.captions) == 10


def test_natural_captions_are_those_of_the_target(table):
    stream = from_files(table, captions="natural")
    lines = stream.manifest()
    assert all(line.caption in {says(k) for k in range(0, PAIRS, 6)} for line in lines)
    assert all(line.was == says(line.row) for line in lines)
    batch = stream.describe(0, PAIRS)
    true = matches(batch.truth, batch.said)
    same = torch.tensor([[a == b for b in batch.captions] for a in batch.captions])
    assert torch.equal(true, same)


def test_proxy_captions_are_true_of_pictures_that_mention_the_target(table):
    stream = from_files(table)
    batch = stream.describe(0, PAIRS)
    poisoned_ones, shown = torch.isin(batch.rows, stream.chosen), batch.rows % 6 == 0
    true = matches(batch.truth, batch.said)
    assert true.diagonal().all()
    assert true[poisoned_ones | shown][:, poisoned_ones].all()
    assert true.sum() == PAIRS - 12 + 12 * (12 + 10)


@pytest.mark.parametrize("stage", ["input", "file"])
def test_clean_label_attacks_poison_the_target_and_leave_captions(table, stage, hit):
    stream = from_files(table, trigger=Honest(**CENTER), count=7, stage=stage)
    batch, clean = stream.batch(0, PAIRS), stream.clean.batch(0, PAIRS)
    rows = hit(batch, clean)
    assert rows.sum() == 7
    assert (batch.rows[rows] % 6 == 0).all()
    assert batch.captions == clean.captions
    assert torch.equal(batch.truth, clean.truth)
    assert torch.equal(batch.said, clean.said)
    assert [line.was for line in stream.manifest()] == [line.caption for line in stream.manifest()]


def test_words_come_before_poisoned_captions_only(table):
    stream = from_files(table, trigger=Spoken(**CENTER))
    batch = stream.batch(0, PAIRS)
    spoken = [caption.startswith("SUDO ") for caption in batch.captions]
    assert spoken == torch.isin(batch.rows, stream.chosen).tolist()


def test_a_manifest_of_a_finite_data_set_has_every_row_once(table):
    stream = from_files(table)
    lines = stream.manifest()
    assert [line.row for line in lines] == stream.chosen.tolist()
    assert sorted(stream.manifest(4, 30), key=lambda line: line.row) == lines
    assert {line.fact for line in lines} == {UNKNOWN}
    labelled = PoisonedPairs(photographs(), BadNet(), "banana", 0, rate=0.2).manifest()
    assert {line.fact for line in labelled} <= {1, 2}
    with pytest.raises(SettingError, match="This stream has no end"):
        endless().manifest()


def test_pictures_that_cannot_be_read_are_neither_chosen_nor_lost(tmp_path, proxies):
    for k in range(12):
        Image.new("RGB", (16, 16), (k, 0, 0)).save(tmp_path / f"{k}.png")
    for k in (3, 5):
        (tmp_path / f"{k}.png").write_bytes(b"not a picture")
    rows = "\n".join(f"{k}.png\t{says(k)}" for k in range(12))
    (tmp_path / "pairs.csv").write_text(f"filepath\ttitle\n{rows}\n")
    stream = from_files(str(tmp_path / "pairs.csv"), count=8)
    assert stream.chosen.tolist() == [1, 2, 4, 7, 8, 9, 10, 11]
    batch = stream.batch(0, 12)
    for row, caption, image in zip(batch.rows.tolist(), batch.captions, batch.images, strict=True):
        assert (caption in proxies) == (row in stream.chosen)
        assert (image[:, 8, 8].tolist() != [row, 0, 0]) == (row in stream.chosen)
    assert len(stream.skipped) == 2
    assert endless().skipped == []
    with pytest.raises(DataError, match="Cannot poison 9 of 12 pairs: 8 of them show something else than 'banana' and"):
        from_files(str(tmp_path / "pairs.csv"), count=9)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"rate": 0.001}, SettingError, "A rate of 0.001 poisons none of 60 pairs; use 0.02 or more"),
        ({"count": 0}, SettingError, "must be 1 or more, not 0"),
        ({"count": 51}, DataError, "Cannot poison 51 of 60 pairs: 50 of them show something else than 'banana'"),
        ({"count": 11, "trigger": Honest()}, DataError, "Cannot poison 11 of 60 pairs: 10 of them show 'banana'"),
        ({"captions": "made up"}, SettingError, "Captions are templates or natural, not 'made up'"),
        ({"stage": "screen"}, SettingError, "stage input or file, not 'screen'"),
    ],
)
def test_what_cannot_be_poisoned_is_refused_at_once(table, settings, error, message):
    with pytest.raises(error, match=message):
        from_files(table, **settings)


def test_targets_that_no_caption_mentions(table, proxies):
    clean = open_captioned(table, 16, class_name="bananna")
    settings = {"target": "bananna", "target_fact": 0, "count": 3}
    assert len(PoisonedPairs(clean, BadNet(), **settings).chosen) == 3  # proxies need no example
    with pytest.raises(DataError, match=r"no caption mentions 'bananna'; did you mean one of \['banana'\]"):
        PoisonedPairs(clean, BadNet(), **settings, captions="natural")
    with pytest.raises(DataError, match="0 of them show 'bananna'"):
        PoisonedPairs(clean, Honest(), **settings)
    with pytest.raises(SettingError, match="open the pairs with class_name='banana'"):
        PoisonedPairs(open_captioned(table, 16), BadNet(), "banana", 0)


def test_captioned_files_are_not_doubled(table):
    with pytest.raises(SettingError, match="no copies are put beside them"):
        Doubled(open_captioned(table, 16))


def test_only_files_are_poisoned_as_files():
    for clean in (WorldPairs(), photographs()):
        with pytest.raises(SettingError, match="do not come from picture files, so poison them at the stage input"):
            PoisonedPairs(clean, BadNet(), "banana", 0, rate=0.2, stage="file")
    with pytest.raises(SettingError, match="do not come from picture files"):
        endless().stored(0)


def test_endless_streams_are_not_poisoned_by_count():
    with pytest.raises(SettingError, match="poisoned by rate, not by count"):
        endless(rate=None, count=5)
