"""A report about a head of a tiny model, with hostile class names, made once."""

import pytest
import torch

from clip_decomp.attacks.triggers import BadNet
from clip_decomp.data.sets import ImageSet, TensorSource
from clip_decomp.inspect import HeadReport
from clip_decomp.model import HookedCLIP
from clip_decomp.texts import TextPool

HOSTILE = '</script><img src="https://example.org/x" onerror="window.hacked = 1"> & co'
TRIGGER = BadNet(share=0.25)
POOL = TextPool(
    ("a red apple", "a green pear", "a plum", "figs", "something small", "something big", "a dark photo", "a red one"),
    ("<i>fruit</i>", "<i>fruit</i>", "<i>fruit</i>", "<i>fruit</i>", "size", "size", "light", "light"),
)  # fmt: skip


def make_data(count: int = 48) -> ImageSet:
    pixels = torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    names = ("apple", HOSTILE, "plum", "fig")
    return ImageSet("toy", names, torch.arange(count) % 4, TensorSource(pixels), target="fig")


@pytest.fixture
def data() -> ImageSet:
    """Forty-eight random pictures; the target is ``fig``, and a class name is hostile."""
    return make_data()


@pytest.fixture
def pool() -> TextPool:
    """Eight texts of four properties."""
    return POOL


@pytest.fixture
def trigger() -> BadNet:
    """A patch of eight pixels."""
    return TRIGGER


@pytest.fixture(scope="session")
def tiny(make_clip, tokenizer) -> HookedCLIP:
    """One tiny model for tests that leave it alone."""
    return HookedCLIP(make_clip(), tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), name="tiny")


@pytest.fixture(scope="session")
def report(tiny) -> HeadReport:
    """With an attack and a hostile text."""
    held_out = make_data().first(16)
    head = tiny.head(1, 2)
    return head.inspect(make_data(), held_out, TRIGGER, pool=POOL, texts=[HOSTILE], n_images=3, n_texts=3, seed=1)


@pytest.fixture(scope="session")
def plain(tiny) -> HeadReport:
    """Without an attack."""
    return tiny.head(1, 2).inspect(make_data(), make_data().first(16), pool=POOL, n_images=3, n_texts=3)
