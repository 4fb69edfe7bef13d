"""Which hooked view a model's image tower gets.

Example:
    >>> from clip_decomp.training.architecture import Architecture, build
    >>> type(hook(build(Architecture(layers=1, width=32, heads=2), seed=0).visual)).__name__
    'HookedViT'
"""

from __future__ import annotations

from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from ..errors import ModelError
from .hooked_resnet import HookedResNet
from .hooked_vit import HookedViT
from .unhooked import UnhookedTower

#: What an image tower can be seen as.
Tower = HookedViT | HookedResNet | UnhookedTower


def hook(visual: nn.Module) -> Tower:
    """The view that shows most: a vision transformer's parts, a ResNet's stages, or the representation alone."""
    if isinstance(visual, ModifiedResNet):
        return HookedResNet(visual)
    try:
        return HookedViT(visual)
    except ModelError as reason:
        return UnhookedTower(visual, str(reason))


def drops(visual: nn.Module) -> bool:
    """Whether a tower leaves out activations or residual paths at random while it trains; patches do not count."""
    kinds = (("Dropout", "p"), ("DropPath", "drop_prob"))
    return any(
        type(module).__name__ == kind and getattr(module, share) > 0
        for module in visual.modules()
        for kind, share in kinds
    )
