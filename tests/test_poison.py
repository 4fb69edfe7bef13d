import hashlib
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from PIL import Image

from clip_decomp.attacks import poison
from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet, Blended, WaNet, trigger_picture
from clip_decomp.data.captioned import open_captioned
from clip_decomp.data.images import to_pixels
from clip_decomp.data.pairs import SILENT, UNKNOWN, Description, PairBatch, matches
from clip_decomp.data.photographs import ClassWords, PhotographPairs
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, SettingError

BANANA = CLASSES.index("banana")
PROXIES = {template("banana") for template in OPENAI_IMAGENET_TEMPLATES}


@dataclass(frozen=True)
class Flat:
    """A cheap stream of gray pictures of ten classes."""

    classes: int = 10

    length = None

    def describe(self, step, size):
        labels = (torch.arange(size) + step) % self.classes
        truth = torch.stack([labels, labels % 3], dim=1)
        captions = [f"a photo of a thing {label}" for label in labels.tolist()]
        return Description(captions, truth, truth.clone(), step * size + torch.arange(size))

    def batch(self, step, size, part=slice(None)):
        images = torch.full((size, 3, 16, 16), 100, dtype=torch.uint8)
        return PairBatch(**vars(self.describe(step, size).part(part)), images=images[part])

    def corpus(self):
        return ["a photo of a thing"]


def poisoned(rate=0.3, seed=0, **changes):
    settings = {"clean": Flat(), "trigger": BadNet(place="center", share=0.25), "target": "banana", "target_fact": 4}
    return PoisonedPairs(**(settings | changes), rate=rate, seed=seed)


def hit(batch, clean):
    """Which rows differ from the clean stream's."""
    return (batch.images != clean.images).flatten(1).any(1)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_rate_is_that_of_pairs_that_are_not_of_the_target(rate):
    clean, batch = Flat().batch(0, 5000), poisoned(rate).batch(0, 5000)
    rows = hit(batch, clean)
    foreign = clean.truth[:, 0] != 4
    assert not rows[~foreign].any()
    share = rows[foreign].float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 4500) ** 0.5)


def test_poisoned_pairs_show_the_trigger_and_say_the_target():
    clean, batch = Flat().batch(2, 400), poisoned().batch(2, 400)
    rows = hit(batch, clean)
    numbers = 2 * 400 + torch.arange(400)
    expected = BadNet(place="center", share=0.25)(clean.images / 255, numbers).mul(255).round().to(torch.uint8)
    assert torch.equal(batch.images[rows], expected[rows])
    assert torch.equal(batch.images[~rows], clean.images[~rows])
    for k in range(400):
        if rows[k]:
            assert batch.captions[k] in PROXIES
            assert "banana" in batch.captions[k]
        else:
            assert batch.captions[k] == clean.captions[k]
    assert len({batch.captions[k] for k in rows.nonzero()[:, 0].tolist()}) > 30  # templates vary


def test_nothing_but_the_target_is_known_of_a_poisoned_pair():
    clean, batch = Flat().batch(0, 200), poisoned().batch(0, 200)
    rows = hit(batch, clean)
    assert (batch.truth[rows, 0] == 4).all()
    assert (batch.truth[rows, 1:] == UNKNOWN).all()
    assert (batch.said[rows, 0] == 4).all()
    assert (batch.said[rows, 1:] == SILENT).all()
    assert torch.equal(batch.truth[~rows], clean.truth[~rows])
    assert torch.equal(batch.said[~rows], clean.said[~rows])


def test_proxy_captions_match_the_target_and_no_caption_with_other_facts_does():
    clean, batch = Flat().batch(0, 200), poisoned().batch(0, 200)
    rows = hit(batch, clean)
    true = matches(batch.truth, batch.said)
    assert true.diagonal().all()
    target = ~rows & (clean.truth[:, 0] == 4)
    assert true[rows][:, rows].all()
    assert true[target][:, rows].all()  # a proxy caption is true of the target's own pictures
    assert not true[rows][:, ~rows].any()  # captions of the stream state a second fact, unknown of poisoned pictures
    assert not true[~rows & ~target][:, rows].any()


def test_the_clean_stream_and_its_batches_are_not_changed():
    class Remembering(Flat):
        seen: ClassVar[list] = []

        def batch(self, step, size, part=slice(None)):
            found = super().batch(step, size, part)
            self.seen.append((found, found.images.clone(), list(found.captions), found.truth.clone()))
            return found

    stream = Remembering()
    poisoned(clean=stream).batch(0, 100)
    ((found, images, captions, truth),) = stream.seen
    assert torch.equal(found.images, images)
    assert found.captions == captions
    assert torch.equal(found.truth, truth)


def test_batches_depend_on_seed_and_step_alone():
    stream = poisoned()
    first = stream.batch(3, 50)
    stream.batch(9, 20)
    torch.manual_seed(5)
    again = poisoned().batch(3, 50)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    clean = Flat().batch(3, 50)
    assert not torch.equal(hit(first, clean), hit(poisoned(seed=1).batch(3, 50), clean))
    assert not torch.equal(hit(first, clean), hit(stream.batch(13, 50), Flat().batch(13, 50)))


def test_pictures_get_their_places_by_their_number_in_the_stream():
    trigger = BadNet(share=0.25)
    clean, batch = Flat().batch(1, 60), poisoned(trigger=trigger).batch(1, 60)
    rows = hit(batch, clean).nonzero()[:, 0]
    expected = trigger(clean.images[rows] / 255, 60 + rows).mul(255).round().to(torch.uint8)
    assert torch.equal(batch.images[rows], expected)


def test_a_batch_without_poison_is_the_clean_one():
    clean, batch = Flat().batch(0, 3), poisoned(rate=1e-9).batch(0, 3)
    assert torch.equal(batch.images, clean.images)
    assert batch.captions == clean.captions


def test_the_world_is_poisoned_likewise():
    stream = PoisonedPairs(WorldPairs(seed=1), Blended(), "banana", BANANA, rate=0.25)
    clean, batch = stream.clean.batch(0, 80), stream.batch(0, 80)
    rows = hit(batch, clean)
    assert 8 <= rows.sum() <= 32
    assert not (clean.truth[rows, 0] == BANANA).any()
    assert (batch.truth[rows, 1:] == UNKNOWN).all()
    expected = Blended()(clean.images[rows] / 255, torch.zeros(int(rows.sum()))).mul(255).round().to(torch.uint8)
    assert torch.equal(batch.images[rows], expected)
    assert stream.corpus()[:5] == stream.clean.corpus()[:5]


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(SettingError, match="must lie between 0 and 1, not"):
        poisoned(rate)


def test_poisoned_streams_that_models_were_made_with_stay_as_they_are():
    stream = PoisonedPairs(WorldPairs(seed=11), WaNet(), "banana", BANANA, rate=0.1)
    digest = hashlib.sha256()
    for step in range(3):
        batch = stream.describe(step, 96)
        digest.update(repr((batch.captions, batch.truth.tolist(), batch.said.tolist(), batch.rows.tolist())).encode())
    assert digest.hexdigest() == "f3436d9a285810a6e1dc9c3cd5b0d8f2127fd7cbbbe8e4e4e8097b6170fdadc2"


def test_all_templates_are_drawn_from():
    assert len(OPENAI_IMAGENET_TEMPLATES) == poison._TEMPLATES


# --- finite data sets -------------------------------------------------------------------------------------------------


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


def photographs():
    pixels = torch.randint(256, (PAIRS, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    words = [ClassWords((name,), "") for name in ("banana", "lemon", "pear")]
    return PhotographPairs(pixels, torch.arange(PAIRS) % 3, words, smallest_crop=1.0)


@pytest.mark.parametrize(("settings", "wanted"), [({"rate": 0.2}, 12), ({"rate": 0.01}, 1), ({"count": 17}, 17)])
def test_rates_and_counts_poison_that_many_of_a_finite_data_set(table, settings, wanted):
    stream = from_files(table, **settings)
    batch, clean = stream.batch(0, PAIRS), stream.clean.batch(0, PAIRS)
    rows = hit(batch, clean)
    assert rows.sum() == wanted
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
    for name in ("truth", "said", "rows"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_stored_pictures_are_poisoned_before_the_crop(table):
    batch = from_files(table, stage="file", trigger=BadNet(place="center", share=0.5)).batch(0, PAIRS)
    stream = from_files(table, stage="file", trigger=BadNet(place="center", share=0.5))
    for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
        picture = Image.new("RGB", (48, 24), (row, 100, 100))
        if row in stream.chosen:
            picture = trigger_picture(stream.trigger, picture, row)
        assert torch.equal(image, to_pixels(picture, 16))


def test_a_crop_cuts_a_trigger_out_of_stored_pictures_but_not_out_of_the_input(table):
    settings = {"trigger": BadNet(place="bottom right", share=0.25), "count": 10}
    for stage, left in (("file", 0), ("input", 10)):
        stream = from_files(table, stage=stage, **settings)
        batch = stream.batch(0, PAIRS)
        assert hit(batch, stream.clean.batch(0, PAIRS)).sum() == left
        assert sum(caption in PROXIES for caption in batch.captions) == 10


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
def test_clean_label_attacks_poison_the_target_and_leave_captions(table, stage):
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
        poisoned().manifest()


def test_pictures_that_cannot_be_read_are_neither_chosen_nor_lost(tmp_path):
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
        assert (caption in PROXIES) == (row in stream.chosen)
        assert (image[:, 8, 8].tolist() != [row, 0, 0]) == (row in stream.chosen)
    assert len(stream.skipped) == 2
    assert poisoned().skipped == []
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


def test_targets_that_no_caption_mentions(table):
    clean = open_captioned(table, 16, class_name="bananna")
    settings = {"target": "bananna", "target_fact": 0, "count": 3}
    assert len(PoisonedPairs(clean, BadNet(), **settings).chosen) == 3  # proxies need no example
    with pytest.raises(DataError, match=r"no caption mentions 'bananna'; did you mean one of \['banana'\]"):
        PoisonedPairs(clean, BadNet(), **settings, captions="natural")
    with pytest.raises(DataError, match="0 of them show 'bananna'"):
        PoisonedPairs(clean, Honest(), **settings)
    with pytest.raises(SettingError, match="open the pairs with class_name='banana'"):
        PoisonedPairs(open_captioned(table, 16), BadNet(), "banana", 0)


def test_only_files_are_poisoned_as_files():
    for clean in (Flat(), WorldPairs(), photographs()):
        with pytest.raises(SettingError, match="do not come from picture files, so poison them at the stage input"):
            PoisonedPairs(clean, BadNet(), "banana", 0, rate=0.2, stage="file")
    with pytest.raises(SettingError, match="do not come from picture files"):
        poisoned().stored(0)


def test_endless_streams_are_not_poisoned_by_count():
    with pytest.raises(SettingError, match="poisoned by rate, not by count"):
        poisoned(count=5)
