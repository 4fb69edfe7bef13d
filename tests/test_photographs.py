from dataclasses import replace

import pytest
import torch

from clip_decomp.data.pairs import matches
from clip_decomp.data.photographs import ClassWords, PhotographPairs, wordnet_words

WORDS = [ClassWords(("banana", "plantain"), "elongated yellow fruit"), ClassWords(("lemon",), "")]


@pytest.fixture
def photographs():
    pixels = torch.randint(256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return PhotographPairs(pixels, torch.tensor([0, 1, 0, 1, 0, 1]), WORDS, seed=2)


def test_photographs_come_once_in_each_pass_perhaps_mirrored(photographs):
    whole = replace(photographs, smallest_crop=1.0)
    shown = torch.cat([whole.batch(step, 4).images for step in range(3)])  # two passes
    for half in (shown[:6], shown[6:]):
        found = [
            k
            for picture in half
            for k, original in enumerate(whole.images)
            if torch.equal(picture, original) or torch.equal(picture, original.flip(-1))
        ]
        assert sorted(found) == list(range(6))


def test_augmentations_become_gentle(photographs):
    smooth = torch.linspace(0, 255, 16).to(torch.uint8).expand(6, 3, 16, 16).contiguous()
    stream = replace(photographs, images=smooth, gentle_from=3)

    def spread(step):
        pictures = stream.batch(step, 64).images.float()
        return (pictures.amax((1, 2, 3)) - pictures.amin((1, 2, 3))).min()

    # A gentle crop keeps most of the gradient; a usual one may keep little of it.
    assert spread(2) < 0.65 * 255
    assert spread(3) > 0.7 * 255


def test_photographs_depend_on_seed_and_step_and_leave_the_global_generator_alone(photographs):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = photographs.batch(3, 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = replace(photographs).batch(3, 4)
    assert torch.equal(first.images, again.images)
    assert first.captions == again.captions
    assert not torch.equal(first.images, photographs.batch(4, 4).images)


def test_captions_of_photographs_name_their_class(photographs):
    batch = photographs.batch(0, 300)
    for label, text in zip(batch.truth[:, 0].tolist(), batch.captions, strict=True):
        assert any(name in text for name in WORDS[label].names), text
        assert not any(name in text for name in WORDS[1 - label].names), text
    assert any("elongated yellow fruit" in text for text in batch.captions)
    plain = sum(text in {"a photo of a banana.", "a photo of a lemon."} for text in batch.captions)
    assert 0.22 < plain / 300 < 0.5
    assert torch.equal(matches(batch.truth, batch.said), batch.truth == batch.truth.T)


def test_words_of_an_imagenet_class():
    words = wordnet_words("n07753592", "banana", ["banana", "plantain"])
    assert words.names == ("banana", "plantain")
    assert "fruit" in words.definition
    assert wordnet_words("n00000000", "thing", []).definition == ""
