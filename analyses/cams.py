"""Where does a model look that a trigger is shown to, before and after a defense? Grad-CAM's mass on the trigger.

CBPT's figure 5 shows a few maps; here the share of a map's mass that lies on the trigger's patches is a number, for as
many pictures as wanted. Maps are those of the class that a picture is given, whichever that is.

Limits: Grad-CAM is a local view: where the trigger has already decided the class, more of it raises nothing (see
:mod:`clip_decomp.methods.gradcam`). Triggers that change every patch have no place: their share is always one.

Example:
    >>> import torch
    >>> clean, triggered = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    >>> triggered[:, :, 6:, 6:] = 1
    >>> maps = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> found = on_trigger(maps, clean, triggered)
    >>> found.share.tolist(), found.chance.tolist()
    ([0.75], [0.25])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clip_decomp.methods.gradcam import gradcam, gradcam_resnet
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.zeroshot import predict

#: Pixels a side that a cell of a ResNet's last stage stands for, and cells a side that a map should have.
_STRIDE, _CELLS = 32, 4
#: Pixels that change by less than half a step of 8 bits are the same.
_SAME = 0.5 / 255


@dataclass(frozen=True)
class OnTrigger:
    """How much of every picture's map lies on the trigger; pictures whose map is zero everywhere are left out.

    Attributes:
        share: of the map's mass, on the patches that the trigger changes.
        chance: the share of a map that is the same everywhere.
        there: which maps are not zero everywhere.
    """

    share: Float[Tensor, " image"]
    chance: Float[Tensor, " image"]
    there: Bool[Tensor, " map"]

    @property
    def empty(self) -> int:
        """How many maps are zero everywhere."""
        return int((~self.there).sum())

    def __str__(self) -> str:
        if not len(self.share):
            return f"no map says anything ({self.empty} are zero)"
        error = self.share.std().item() / len(self.share) ** 0.5 if len(self.share) > 1 else float("nan")
        text = f"{self.share.mean():.1%} ± {error:.1%} of the mass (by chance {self.chance.mean():.1%})"
        return f"{text}; {self.empty} of {len(self.share) + self.empty} maps are zero"


def on_trigger(
    maps: Float[Tensor, "image row column"],
    clean: Float[Tensor, "image 3 y x"],
    triggered: Float[Tensor, "image 3 y x"],
) -> OnTrigger:
    """Maps of triggered pictures, and the same pictures in 0..1 without and with the trigger."""
    patches = changed_patches(clean, triggered, maps.shape[1:])
    mass, own = maps.flatten(1).sum(1), (maps * patches).flatten(1).sum(1)
    there = mass > 0
    return OnTrigger((own / mass)[there], patches.flatten(1).mean(1)[there], there)


def changed_patches(
    clean: Float[Tensor, "image 3 y x"], triggered: Float[Tensor, "image 3 y x"], grid: Sequence[int]
) -> Float[Tensor, "image row column"]:
    """1 where a trigger changes a cell of a grid, else 0."""
    changed = ((triggered - clean).abs() > _SAME).any(1, keepdim=True).float()
    return F.adaptive_max_pool2d(changed, tuple(grid))[:, 0]


def looks(
    model: HookedCLIP, pixels: Float[Tensor, "image 3 y x"], vectors: Float[Tensor, "cls d_embed"]
) -> tuple[Float[Tensor, "image row column"], Int[Tensor, " image"]]:
    """Grad-CAM of pictures in 0..1 toward the class that each is given, and these classes.

    A ResNet's maps are its last stage's, or of small pictures those of an earlier one: four cells a side or more.
    """
    images = model.normalize(pixels)
    with torch.no_grad():
        given = predict(model.encode_image(images), vectors).cpu()
    maps: Tensor | None = None
    for label in given.unique().tolist():
        rows, text = given == label, vectors[label : label + 1]
        if isinstance(model.visual, HookedViT):
            part = gradcam(model, images[rows], text).maps[..., 0]
        else:
            part = gradcam_resnet(model.clip, images[rows], text, _stage(pixels.shape[-1])).maps[..., 0]
        if maps is None:
            maps = torch.zeros(len(pixels), *part.shape[1:])
        maps[rows] = part.cpu()
    assert maps is not None
    return maps, given


def _stage(side: int) -> int:
    """The last stage of a ResNet whose maps have enough cells, from the end.

    Example:
        >>> _stage(224), _stage(64)
        (-1, -2)
    """
    stage = -1
    while side * 2 ** (-stage - 1) // _STRIDE < _CELLS and stage > -4:
        stage -= 1
    return stage
