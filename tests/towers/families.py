"""Every model that open_clip lists, by what its image tower is."""

from torch import nn

from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.models.hooking import hook
from clip_decomp.models.partless import PartlessTower

#: How many models there are of each.
COUNTS = {
    "class token": 48,
    "average, then norm": 6,
    "attention pool": 2,
    "timm class token": 10,
    "timm attention pool": 33,
    "timm plain, class token": 1,
    "timm plain, norm, then average": 1,
    "not hooked: ConvNeXt": 11,
    "not hooked: FastVit": 6,
    "not hooked: ModifiedResNet": 10,
    "not hooked: SwinTransformer": 1,
    "not hooked: VisionTransformer with a stem of MbConvStages": 15,
}
#: timm's transformers that no CLIP was designed around.
PLAIN = ("vit_medium_patch16_gap_256", "vit_relpos_medium_patch16_cls_224")


def family(name: str, visual: nn.Module) -> str:
    """One of the above, by the view that a tower gets."""
    tower = hook(visual)
    trunk = getattr(visual, "trunk", None)
    if isinstance(tower, PartlessTower):
        backbone = getattr(getattr(trunk, "patch_embed", None), "backbone", None)
        stem = "" if backbone is None else f" with a stem of {type(backbone).__name__}"
        return f"not hooked: {type(visual if trunk is None else trunk).__name__}{stem}"
    assert isinstance(tower, HookedViT)
    kind = "" if trunk is None else "timm plain, " if name in PLAIN else "timm "
    return kind + tower.readout.describes
