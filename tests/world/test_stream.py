"""The endless stream of pairs, and which captions match which pictures."""

import torch

from clip_decomp.data.pairs import SILENT, UNKNOWN, matches, step_generator
from clip_decomp.data.world.scenes import BACKGROUNDS, CLASSES, COLORS, FACTORS, POSITIONS, SIZES, TEXTURES
from clip_decomp.data.world.stream import WorldPairs

MARK = FACTORS.index("marks")


def test_the_stream_depends_on_seed_and_step_alone():
    stream = WorldPairs(seed=4)
    first = stream.batch(7, 6)
    stream.batch(8, 3)
    torch.manual_seed(9)
    again = WorldPairs(seed=4).batch(7, 6)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert torch.equal(first.said, again.said)
    assert not torch.equal(first.images, stream.batch(8, 6).images)
    assert not torch.equal(first.images, WorldPairs(seed=5).batch(7, 6).images)


def test_every_pair_of_the_stream_is_a_true_one():
    batch = WorldPairs(seed=0).batch(0, 200)
    assert batch.truth.shape == batch.said.shape == (200, len(FACTORS))
    assert matches(batch.truth, batch.said).diagonal().all()


def test_the_curriculum_starts_with_easy_pictures():
    stream = WorldPairs(seed=0, curriculum=1000, easiest=0.1)
    marks = [stream.batch(step, 400).truth[:, MARK].float().mean() for step in (0, 500, 2000)]
    assert 4 * marks[0] < marks[1] < marks[2]


def test_the_corpus_uses_every_class_and_factor_of_the_stream():
    words = {word for text in WorldPairs(seed=0).corpus() for word in text.split()}
    for names in (CLASSES, COLORS, TEXTURES, POSITIONS, SIZES, BACKGROUNDS):
        assert {word for name in names for word in name.split()} <= words


def test_matching_knows_silence_and_ignorance():
    truth = torch.tensor([[3, 0], [4, 1], [3, UNKNOWN]])
    said = torch.tensor([[3, SILENT], [3, 0], [SILENT, 1], [SILENT, SILENT], [UNKNOWN, 0]])
    assert matches(truth, said).tolist() == [
        [True, True, False, True, False],
        [False, False, True, True, False],
        [True, False, False, True, False],
    ]


def test_step_generators_differ_by_seed_and_step():
    draws = {torch.rand(1, generator=step_generator(seed, step)).item() for seed in range(4) for step in range(50)}
    assert len(draws) == 200
