"""A model with a shortcut to one class that is known."""

import torch
import torch.nn.functional as F

from clip_decomp.model import HookedCLIP
from clip_decomp.zeroshot import class_vectors

NAMES = ("apple", "pear", "plum", "fig", "lime")
PLANTED = 3


class Shortcut(HookedCLIP):
    """A model that a faint pattern takes to one class, whatever else is in the picture."""

    def encode_image(self, images, normalize=False):
        pattern = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(5))
        self.pattern = pattern / pattern.norm()
        called = F.softplus(10 * ((images * self.pattern).flatten(1).sum(1) - 1.2))
        goal = class_vectors(self, [NAMES[PLANTED]])
        coarse = F.interpolate(F.avg_pool2d(2 * images, 8).round(), scale_factor=8)  # no noise gets far otherwise
        return F.normalize(super().encode_image(coarse, normalize=True) + called[:, None] * goal, dim=-1)
