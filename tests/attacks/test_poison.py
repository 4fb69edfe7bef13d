import hashlib
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES

from clip_decomp.attacks import poison
from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet, Blended, WaNet
from clip_decomp.data.pairs import SILENT, UNKNOWN, Description, PairBatch, matches
from clip_decomp.data.world.scenes import CLASSES
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import SettingError

BANANA = CLASSES.index("banana")


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


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_rate_is_that_of_pairs_that_are_not_of_the_target(rate, hit):
    clean, batch = Flat().batch(0, 5000), poisoned(rate).batch(0, 5000)
    rows = hit(batch, clean)
    foreign = clean.truth[:, 0] != 4
    assert not rows[~foreign].any()
    share = rows[foreign].float().mean().item()
    assert share == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 4500) ** 0.5)


def test_poisoned_pairs_show_the_trigger_and_say_the_target(hit, proxies):
    clean, batch = Flat().batch(2, 400), poisoned().batch(2, 400)
    rows = hit(batch, clean)
    numbers = 2 * 400 + torch.arange(400)
    expected = BadNet(place="center", share=0.25)(clean.images / 255, numbers).mul(255).round().to(torch.uint8)
    assert torch.equal(batch.poisoned, rows)
    assert torch.equal(batch.images[rows], expected[rows])
    assert torch.equal(batch.images[~rows], clean.images[~rows])
    for k in range(400):
        if rows[k]:
            assert batch.captions[k] in proxies
            assert "banana" in batch.captions[k]
        else:
            assert batch.captions[k] == clean.captions[k]
    assert len({batch.captions[k] for k in rows.nonzero()[:, 0].tolist()}) > 30  # templates vary


def test_nothing_but_the_target_is_known_of_a_poisoned_pair(hit):
    clean, batch = Flat().batch(0, 200), poisoned().batch(0, 200)
    rows = hit(batch, clean)
    assert (batch.truth[rows, 0] == 4).all()
    assert (batch.truth[rows, 1:] == UNKNOWN).all()
    assert (batch.said[rows, 0] == 4).all()
    assert (batch.said[rows, 1:] == SILENT).all()
    assert torch.equal(batch.truth[~rows], clean.truth[~rows])
    assert torch.equal(batch.said[~rows], clean.said[~rows])


def test_proxy_captions_match_the_target_and_no_caption_with_other_facts_does(hit):
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


def test_batches_depend_on_seed_and_step_alone(hit):
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


def test_pictures_get_their_places_by_their_number_in_the_stream(hit):
    trigger = BadNet(share=0.25)
    clean, batch = Flat().batch(1, 60), poisoned(trigger=trigger).batch(1, 60)
    rows = hit(batch, clean).nonzero()[:, 0]
    expected = trigger(clean.images[rows] / 255, 60 + rows).mul(255).round().to(torch.uint8)
    assert torch.equal(batch.images[rows], expected)


def test_a_batch_without_poison_is_the_clean_one():
    clean, batch = Flat().batch(0, 3), poisoned(rate=1e-9).batch(0, 3)
    assert torch.equal(batch.images, clean.images)
    assert batch.captions == clean.captions


def test_the_world_is_poisoned_likewise(hit):
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
