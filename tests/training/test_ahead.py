"""Batches drawn ahead by workers: the same numbers, in order, and nothing left behind."""

import copy
import multiprocessing
import time

import pytest
import torch
from PIL import Image

from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.data.captioned import open_captioned
from clip_decomp.data.pairs import FirstPairs
from clip_decomp.data.photographs import ClassWords, PhotographPairs
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.errors import DataError, SettingError, TrainingFailed
from clip_decomp.training.ahead import DrawnAhead
from clip_decomp.training.trainer import TrainSettings, train

SIZE, STEPS = 6, range(2, 6)


def photographs():
    pixels = torch.randint(256, (10, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    words = [ClassWords(("fig",), ""), ClassWords(("pear",), "a fruit")]
    return PhotographPairs(pixels, torch.arange(10) % 2, words, seed=3)


STREAMS = {
    "world": lambda: WorldPairs(seed=4),
    "poisoned": lambda: PoisonedPairs(WorldPairs(seed=4), BadNet(), "banana", 0, rate=0.5),
    "kept": lambda: FirstPairs(WorldPairs(seed=4), 9),
    "photographs": photographs,  # draws from the global generator
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("part", [slice(None), slice(2, 5)])
def test_workers_draw_what_the_stream_would(name, part):
    stream = STREAMS[name]()
    ahead = DrawnAhead(stream, STEPS, SIZE, 2, part)
    for step in STEPS:
        mine, theirs = stream.batch(step, SIZE, part), ahead.batch(step, SIZE, part)
        assert mine.captions == theirs.captions
        for key in ("images", "truth", "said", "rows"):
            assert torch.equal(getattr(mine, key), getattr(theirs, key))
    assert ahead.length == stream.length
    ahead.close()


def test_training_gives_the_same_numbers_with_workers(clip, tokenize, equal):
    def trained(workers):
        model = copy.deepcopy(clip)
        settings = TrainSettings(steps=4, batch_size=6, lr=1e-3, bf16=False)
        log = train(model, tokenize, lambda x: x, WorldPairs(seed=2), settings, progress=False, workers=workers)
        return model, log[-1]["loss"]

    (one, loss), (other, again) = trained(0), trained(2)
    assert loss == again
    assert equal(one, other)


def left_over():
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    return multiprocessing.active_children()


def test_no_worker_stays_behind(clip, tokenize):
    settings = TrainSettings(steps=50, batch_size=6, lr=1e30, bf16=False)
    with pytest.raises(TrainingFailed):
        train(clip, tokenize, lambda x: x, WorldPairs(seed=2), settings, progress=False, workers=2)
    assert not left_over()


class Failing(WorldPairs):
    """Cannot be drawn from the second step on."""

    def batch(self, step, size, part=slice(None)):
        if step:
            raise DataError(f"nothing to draw at step {step}")
        return super().batch(step, size, part)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_is_the_streams_own(clip, tokenize, workers):
    settings = TrainSettings(steps=3, batch_size=4, bf16=False)
    with pytest.raises(DataError) as caught:
        train(clip, tokenize, lambda x: x, Failing(seed=2), settings, progress=False, workers=workers)
    assert not left_over()  # although `caught` still holds what the error passed through
    assert str(caught.value) == "nothing to draw at step 1"


def test_batches_are_asked_for_in_order():
    for wrong in ((1, SIZE), (0, SIZE + 1), (0, SIZE, slice(0, 2))):
        ahead = DrawnAhead(WorldPairs(), range(2), SIZE, 1)
        with pytest.raises(SettingError, match="ask the stream itself"):
            ahead.batch(*wrong)
        ahead.close()
    ahead = DrawnAhead(WorldPairs(), range(1), SIZE, 1)
    ahead.batch(0, SIZE)
    with pytest.raises(SettingError, match="of step None is drawn next"):
        ahead.batch(1, SIZE)
    ahead.close()


def test_what_cannot_work_is_refused(monkeypatch):
    with pytest.raises(SettingError, match="one worker or more, not 0"):
        DrawnAhead(WorldPairs(), range(2), SIZE, 0)
    monkeypatch.setattr("clip_decomp.training.ahead.multiprocessing.get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(SettingError, match="cannot"):
        DrawnAhead(WorldPairs(), range(2), SIZE, 1)


def test_pictures_that_workers_cannot_read_are_listed(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    (tmp_path / "c.png").write_text("not a picture")
    (tmp_path / "pairs.csv").write_text(
        "filepath\ttitle\n"
        + "".join(f"{n}.png\ta {what}\n" for n, what in zip("abc", ("fig", "pear", "pear"), strict=True))
    )
    stream = open_captioned(str(tmp_path / "pairs.csv"), 16, class_name="fig")
    poisoned = PoisonedPairs(stream, BadNet(), "fig", 0, rate=0.34)
    ahead = DrawnAhead(poisoned, range(2), 3, 2)
    for step in range(2):
        ahead.batch(step, 3)
    ahead.close()
    (line,) = poisoned.skipped
    assert line.startswith("row 2: ")
