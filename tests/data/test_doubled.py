import pytest
import torch

from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import WaNet
from clip_decomp.attacks.triggers.label_consistent import LabelConsistent
from clip_decomp.data.doubled import Doubled
from clip_decomp.data.photographs import ClassWords, PhotographPairs
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, SettingError

BANANA = CLASSES.index("banana")


@pytest.fixture(scope="module")
def photographs():
    pixels = torch.randint(0, 256, (12, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return PhotographPairs(pixels, torch.arange(12) % 3, [ClassWords((name,), "") for name in ("fig", "ox", "cup")])


def doubled_attack(stream, rate=0.5, target="banana", place=BANANA, trigger=WaNet()):  # noqa: B008 (it is frozen)
    return PoisonedPairs(Doubled(stream), trigger, target, place, rate=rate)


def test_second_halves_are_the_first_again(photographs):
    for stream in (WorldPairs(seed=3), photographs):
        once, twice = stream.batch(1, 4), Doubled(stream).batch(1, 8)
        for half in (slice(0, 4), slice(4, 8)):
            assert torch.equal(twice.images[half], once.images)
            assert torch.equal(twice.truth[half], once.truth)
            assert torch.equal(twice.said[half], once.said)
            assert twice.captions[half] == once.captions
        assert len(twice.rows.unique()) == 8
    assert Doubled(WorldPairs(seed=3)).batch(1, 8).rows.tolist() == list(range(8, 16))
    assert torch.equal(twice.rows[4:], once.rows + 12)
    assert Doubled(photographs).length == 24


def test_parts_of_a_batch_are_the_batch(photographs):
    stream = doubled_attack(photographs, 0.3, "fig", 0)
    whole, parts = stream.batch(0, 12), [stream.batch(0, 12, part) for part in (slice(0, 7), slice(7, 12))]
    assert torch.equal(torch.cat([each.images for each in parts]), whole.images)
    assert [caption for each in parts for caption in each.captions] == whole.captions
    assert whole.captions == stream.describe(0, 12).captions


def test_copies_alone_are_poisoned_beside_their_originals():
    stream = doubled_attack(WorldPairs(seed=5))
    clean, batch = WorldPairs(seed=5).batch(0, 64), stream.batch(0, 128)
    assert torch.equal(batch.images[:64], clean.images)
    assert batch.captions[:64] == clean.captions
    foreign = clean.truth[:, 0] != BANANA  # at half of all pairs every copy is poisoned that can be
    warped = WaNet()(clean.images / 255, torch.arange(64)).mul(255).round().to(torch.uint8)
    assert torch.equal(batch.images[64:][foreign], warped[foreign])
    assert torch.equal(batch.images[64:][~foreign], clean.images[~foreign])
    assert (batch.truth[64:, 0] == BANANA).all()


def test_the_rate_counts_all_pairs():
    batch = doubled_attack(WorldPairs(seed=5), rate=0.2).describe(0, 4000)
    poisoned = torch.tensor(["banana" in caption for caption in batch.captions[2000:]])
    assert poisoned.float().mean().item() == pytest.approx(0.4, abs=0.06)


def test_chosen_rows_of_a_finite_set_are_copies(photographs):
    stream = doubled_attack(photographs, 0.25, "fig", 0)
    assert len(stream.chosen) == 6
    assert (stream.chosen >= 12).all()
    assert (photographs.labels[stream.chosen - 12] != 0).all()
    every = doubled_attack(photographs, 0.5, "fig", 0).chosen  # as of an endless stream: all that can be
    assert every.tolist() == [12 + row for row in range(12) if row % 3]
    with pytest.raises(DataError, match="8 of them show something else than 'fig'"):
        PoisonedPairs(Doubled(photographs), WaNet(), "fig", 0, count=9)


def test_what_cannot_be_doubled_is_refused(photographs):
    with pytest.raises(SettingError, match="even size, not 7"):
        Doubled(photographs).describe(0, 7)
    with pytest.raises(SettingError, match=r"between 0 and 0\.5, not 0\.6"):
        doubled_attack(WorldPairs(), 0.6)
    with pytest.raises(SettingError, match="copies teach it nothing"):
        doubled_attack(WorldPairs(), trigger=LabelConsistent())
