"""An image tower that is only encoded with: ConvNeXt, Swin, FastViT, ViTamin, ResNets of timm, and unknown ones.

It evaluates, trains, is attacked and defended on the text side or as a whole; it has no hook points but the
representation's, ``hook_features``.

Example:
    >>> import torch
    >>> tower = UnhookedTower(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), "It has no blocks.", 2)
    >>> tower(torch.zeros(1, 3, 2, 2)).shape, tower.d_embed
    (torch.Size([1, 4]), 4)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError
from .inputs import check_images
from .partless import PartlessTower
from .recording import Record


class UnhookedTower(PartlessTower):
    """View of any image tower.

    Args:
        reason: why it cannot be taken apart, a sentence.
        image_size: side of its input in pixels, if the tower does not say it.
    """

    def __init__(self, tower: nn.Module, reason: str, image_size: int | None = None):
        super().__init__()
        self.tower = tower
        self._size = _image_size(tower, image_size)
        self._width: int | None = None
        self.refusal = (
            f"{reason} Encoding, zero-shot evaluation, training, attacks and defenses of the text side or of the whole "
            "model work; for heads, attention maps and ablations take a model with a vision transformer."
        )
        self.hook_features = HookPoint()
        self.setup()

    @property
    def parts_name(self) -> str:
        """The type, and of a wrapper what is inside."""
        trunk = getattr(self.tower, "trunk", None)
        return type(self.tower if trunk is None else trunk).__name__

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return self._size[0]

    @property
    def d_embed(self) -> int:
        """Dimensions of the joint space: what one black picture is encoded in, unless the tower says it."""
        if self._width is None:
            known = getattr(self.tower, "output_dim", None)
            self._width = known if isinstance(known, int) else self._measured()
        return self._width

    @torch.no_grad()
    def _measured(self) -> int:
        parameter = next(self.tower.parameters())
        return self(torch.zeros(1, 3, *self._size, device=parameter.device, dtype=parameter.dtype)).shape[1]

    def forward(
        self, images: Float[Tensor, "batch 3 row column"], record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations.

        Raises:
            SettingError: images of another shape than the tower's.
            ModelError: a batch norm is in training mode, or there is a ``record``, which only transformers fill.
        """
        if record is not None:
            self.refuse()
        check_images(images, *self._size)
        self.check_mode()
        found = self.tower(images.to(next(self.tower.parameters()).dtype))
        return self.hook_features(found[0] if isinstance(found, tuple) else found)


def _image_size(tower: nn.Module, size: int | None) -> tuple[int, int]:
    found = getattr(tower, "image_size", None) if size is None else size
    if isinstance(found, int):
        return found, found
    if isinstance(found, tuple | list) and len(found) == 2:
        return int(found[0]), int(found[1])
    raise ModelError(f"An image tower of type {type(tower).__name__} does not say how large its pictures are.")
