"""Triggers: what an attacker does to the pixels.

A trigger works on pictures in 0..1 at the model's input size, before normalization, and is deterministic: the same seed
and the same picture number always give the same pixels. It never changes its input.

Example:
    >>> images = torch.rand(2, 3, 64, 64)
    >>> BadNet(seed=0)(images, torch.tensor([0, 1])).shape
    torch.Size([2, 3, 64, 64])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from ...errors import SettingError
from .badclip import BadCLIP
from .badnet import BadNet
from .base import Trigger
from .blended import Blended
from .issba import ISSBA
from .kitty import Kitty
from .label_consistent import LabelConsistent
from .reflection import Reflection
from .sig import SIG
from .trojvqa import TrojVQA
from .wanet import WaNet

__all__ = [
    "ISSBA",
    "SIG",
    "TRIGGERS",
    "BadCLIP",
    "BadNet",
    "Blended",
    "Kitty",
    "LabelConsistent",
    "Reflection",
    "Trigger",
    "TrojVQA",
    "WaNet",
    "make_trigger",
    "register",
    "trigger_picture",
]

#: Attacks by name; users extend it with :func:`register`.
TRIGGERS: dict[str, Callable[..., Trigger]] = {}


def register(name: str, build: Callable[..., Trigger]) -> None:
    """Make a trigger known by name.

    Raises:
        SettingError: the name is taken.
    """
    if name in TRIGGERS:
        raise SettingError(f"There is a trigger named {name!r} already.")
    TRIGGERS[name] = build


for _kind in (BadNet, Blended, SIG, WaNet, ISSBA, LabelConsistent, Reflection, Kitty, TrojVQA, BadCLIP):
    register(_kind.name, _kind)


def make_trigger(name: str, **settings: Any) -> Trigger:
    """A trigger by name.

    Raises:
        SettingError: no such trigger or no such setting.
    """
    if name not in TRIGGERS:
        raise SettingError(f"There is no attack {name!r}: choose from {sorted(TRIGGERS)}.")
    try:
        return TRIGGERS[name](**settings)
    except TypeError as error:
        raise SettingError(f"{name}: {error}") from error


def trigger_picture(trigger: Trigger, image: Image.Image, number: int = 0) -> Image.Image:
    """A triggered copy of a PIL image of any size and mode.

    Args:
        number: tells pictures apart where the trigger is random.
    """
    import numpy as np

    from ...data.images import to_rgb

    pixels = torch.from_numpy(np.asarray(to_rgb(image)).copy()).permute(2, 0, 1)[None].float() / 255
    triggered = trigger(pixels, torch.tensor([number]))[0]
    return Image.fromarray((triggered * 255).round().byte().permute(1, 2, 0).numpy())
