"""The list of adapters: what is tried on an image tower, in this order.

To support another library, write a :class:`~clip_decomp.models.towers.parts.TowerParts` over its modules and add a line
here: a predicate, which must not import the library unless the module comes from it, and the function that makes parts.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ...errors import ModelError
from .parts import TowerParts


def parts_of(tower: nn.Module) -> TowerParts:
    """Parts of an image tower.

    Raises:
        ModelError: no adapter knows it, or the one that does refuses it.
    """
    for known, adapt in ADAPTERS:
        if known(tower):
            return adapt(tower)
    raise ModelError(
        f"An image tower of type {_name(tower)} has no decomposition here; a vision transformer of open_clip or timm, "
        "such as open_clip's VisionTransformer with a class token, does."
    )


def _name(tower: nn.Module) -> str:
    trunk = getattr(tower, "trunk", None)
    return type(tower).__name__ if trunk is None else f"{type(tower).__name__} around {type(trunk).__name__}"


def _is_open_clip(tower: nn.Module) -> bool:
    from open_clip.transformer import VisionTransformer

    return isinstance(tower, VisionTransformer)


def _open_clip(tower) -> TowerParts:
    from .open_clip import OpenCLIPParts

    return OpenCLIPParts(tower)


def _is_transformers(tower: nn.Module) -> bool:
    from ..hugging_face import ImageTower

    return isinstance(tower, ImageTower)


def _transformers(tower) -> TowerParts:
    from .hugging_face import TransformersParts

    return TransformersParts(tower)


def _is_timm(tower: nn.Module) -> bool:
    return type(tower).__module__ == "open_clip.timm_model"


def _timm(tower) -> TowerParts:
    from .timm import TimmParts

    return TimmParts(tower)


#: Predicates and what makes parts where they hold.
ADAPTERS: list[tuple[Callable[[nn.Module], bool], Callable[[nn.Module], TowerParts]]] = [
    (_is_open_clip, _open_clip),
    (_is_timm, _timm),
    (_is_transformers, _transformers),
]
