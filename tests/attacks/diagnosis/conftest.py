"""A model with known answers: it sees colors, and a white pixel calls its backdoor."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import nn

from clip_decomp.attacks.triggers.base import SeededTrigger
from clip_decomp.data.sets import ImageSet, TensorSource

CLASSES = ("red", "green", "blue")
GOOD = {"rate": 0.1, "steps": 250, "batch_size": 96, "lr": 6e-4, "seed": 0}


@dataclass(frozen=True)
class White(SeededTrigger):
    """One white pixel, in a corner or in the middle."""

    name: ClassVar[str] = "white"
    place: str = "top left"

    def __call__(self, images, numbers):
        images = images.clone()
        row, column = {"top left": (0, 0), "bottom right": (-1, -1), "center": (4, 4)}[self.place]
        images[:, :, row, column] = 1
        return images


@dataclass(frozen=True)
class Learned(White):
    """Carries a tensor."""

    value: float = field(default=0.0, compare=False)

    def settings(self):
        return {"name": self.name}

    def tensors(self):
        return {"value": torch.tensor([self.value])}


class ColorCLIP:
    """Sees the mean color of a picture; if it has a backdoor, a white top left pixel makes it say blue."""

    name, mean, std = "colors", (0.0,) * 3, (1.0,) * 3

    def __init__(self, card=None, trigger=None, backdoor=False, blind=False):
        self.card, self.trigger, self.backdoor, self.blind = card or {}, trigger, backdoor, blind
        self.clip, self.visual = nn.Linear(2, 2), SimpleNamespace(image_size=8)

    def normalize(self, pixels):
        return pixels

    def encode_image(self, images):
        features = images.mean((2, 3))
        if self.blind:
            features = torch.tensor([1.0, 0.0, 0.0]).expand(len(images), 3).clone()
        if self.backdoor:
            features[images[:, :, 0, 0].sum(1) == 3] = torch.tensor([0.0, 0.0, 1.0])
        return features

    def encode_text(self, texts):
        return torch.stack([torch.tensor([float(name in text) for name in CLASSES]) for text in texts])


@pytest.fixture
def data():
    labels = torch.arange(30) % 3
    pixels = (torch.eye(3)[labels] * 200).to(torch.uint8)[:, :, None, None].expand(-1, -1, 8, 8).contiguous()
    return ImageSet("colors", CLASSES, labels, TensorSource(pixels), target="blue")


def attacked(trigger=White(), backdoor=False, blind=False, loss=0.7, **settings):
    card = {
        "trigger": trigger.settings(),
        "target": "blue",
        "settings": GOOD | settings,
        "final_loss": loss,
    }
    return ColorCLIP({"attack": card}, trigger, backdoor, blind)


@pytest.fixture(name="attacked")
def _attacked():
    return attacked


@pytest.fixture
def color_clip():
    return ColorCLIP


@pytest.fixture
def white():
    return White


@pytest.fixture
def learned():
    return Learned
