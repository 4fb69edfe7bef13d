"""A tiny model with random weights, pictures of noise for it and pictures that are strange to it."""

import torch

from clip_decomp.model import HookedCLIP
from clip_decomp.training.architecture import Architecture, build


def noise(count: int, seed: int = 0):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def strange(count: int, seed: int = 50):
    images = noise(count, seed)
    images[:, :, 16:48, 16:48] = 9.0
    return images


def hooked(seed: int, generator: torch.Generator | None = None):
    """A tiny model whose heads average over patches: a bright square takes them far from where noise does."""
    clip = build(Architecture(layers=3, width=32, heads=4, embed_dim=16, vocab_size=300), seed=seed).eval()
    generator = generator or torch.Generator().manual_seed(3)
    for parameter in clip.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return HookedCLIP(clip, lambda texts: torch.ones(len(texts), 32, dtype=torch.long), (0.5,) * 3, (0.25,) * 3)


def model_and_images(n: int = 40):
    generator = torch.Generator().manual_seed(3)
    return hooked(1, generator), torch.randn(n, 3, 64, 64, generator=generator)
