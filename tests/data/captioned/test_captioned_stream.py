"""Passes over captioned pictures: order, facts, crops, and pictures that cannot be read."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from clip_decomp.data.captioned import mention, open_captioned
from clip_decomp.data.crops import RATIOS, random_crop
from clip_decomp.data.pairs import SILENT, UNKNOWN, matches
from clip_decomp.errors import DataError, SettingError

SIZE = 8
CAPTIONS = ["a banana on a plate", "a red car", "two Bananas", "a red car", "bandana", "a dog, asleep"]


def shades(batch):
    return batch.images[:, 0, 0, 0].tolist()


def test_every_pair_comes_once_a_pass_in_an_order_of_its_own(table, whole, everything):
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


def test_stored_pictures_can_be_changed_before_they_are_cropped(table, tmp_path, whole, everything):
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


def test_missing_pictures_are_skipped_counted_and_listed(table, tmp_path, caplog, whole):
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
