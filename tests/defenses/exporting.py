"""A tiny model and every kind of defense of it to export."""

import json

import pytest
import torch

from clip_decomp.model import HookedCLIP
from clip_decomp.training.architecture import Architecture, build
from defenses import CBPT, RVPT, DecompRep, DecompRepTotal, Guard, LinearProbe

SIZES = Architecture(
    embed_dim=12, image_size=32, layers=2, width=32, heads=4, context_length=16, vocab_size=300, text_layers=2,
    text_width=16, text_heads=2,
)  # fmt: skip
NAMES = ["apple", "pear", "plum", "fig"]


@pytest.fixture(scope="module")
def make(tokenizer, randomize):
    def make(sizes=SIZES, seed=1):
        card = {"architecture": sizes.to_dict(), "tokenizer": json.loads(tokenizer.to_json())}
        card["normalization"] = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
        clip = randomize(build(sizes, seed), seed)
        return HookedCLIP(clip, tokenizer, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), name="tiny", card=card)

    return make


@pytest.fixture(scope="module")
def model(make):
    return make()


def pictures(count, seed=0):
    """Smooth ones."""
    noise = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, 32, mode="bilinear")


def clean(model, count=120, seed=1):
    return model.normalize(pictures(count, seed))


@pytest.fixture(scope="module")
def mixed():
    """Pictures like the calibration's, and noise that a guard flags."""
    return torch.cat([pictures(6, 2), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(3))])


def prompted(model):
    labels = torch.arange(8) % 4
    fixed = RVPT(shots=1, length=3, epochs=1, depth=1, progress=False).fit(model, clean(model, 8), labels, NAMES)
    fixed.prompts_.prompts.data.normal_(generator=torch.Generator().manual_seed(0))  # prompts that matter
    fixed.prompted_ = fixed.prompts_.on(model, keys=True)
    return fixed


def prompted_classes(model):
    few = CBPT(shots=1, epochs=1, warmup=0, progress=False)
    return few.fit(model, clean(model, 8), torch.arange(8) % 4, NAMES)


def probe(model):
    return LinearProbe(shots=2, epochs=2).fit(model, clean(model, 8), torch.arange(8) % 4, NAMES)


def relative(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


MADE = {
    "model": lambda model: model,
    "rvpt": prompted,
    "cbpt": prompted_classes,
    "probe": probe,
    "heads": lambda model: DecompRep(share=0.4).fit(model, clean(model)),
    "mlps": lambda model: DecompRep("mlps", replacement="zero").fit(model, clean(model)),
    "auto": lambda model: DecompRep("auto", share=0.4).fit(model, clean(model)),
    "total": lambda model: DecompRepTotal(false_positive_rate=0.3).fit(model, clean(model)),
    "flag": lambda model: Guard.calibrate(model, clean(model), mode="flag"),
    "reject": lambda model: Guard.calibrate(model, clean(model), mode="reject"),
    "repair": lambda model: Guard.calibrate(model, clean(model), mode="repair"),
}
