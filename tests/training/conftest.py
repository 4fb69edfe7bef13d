"""A tiny model to train, and its tokenizer."""

import pytest
import torch

from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.architecture import Architecture, build


@pytest.fixture(scope="session")
def tokenize():
    return BPETokenizer.train(WorldPairs(seed=1).batch(0, 50).captions, vocab_size=300, context_length=16)


@pytest.fixture
def clip(tokenize):
    architecture = Architecture(
        embed_dim=16,
        layers=2,
        width=32,
        heads=2,
        patch_size=16,
        context_length=16,
        vocab_size=tokenize.vocab_size,
        text_layers=1,
        text_width=16,
        text_heads=2,
    )
    return build(architecture, seed=0).eval()


@pytest.fixture(scope="session")
def equal():
    """Says whether two models have the same weights."""

    def compare(a, b):
        first, second = a.state_dict(), b.state_dict()
        return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)

    return compare
