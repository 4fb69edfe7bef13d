"""open_clip's image towers by name, of two layers and small, with norms and biases that are not trivial."""

from typing import Any
from unittest import mock

import open_clip
import timm
import torch
from open_clip.model import _build_vision_tower
from torch import nn

#: Side of the grid of patches in shrunk towers.
GRID = 3
D_EMBED = 48
#: What makes timm's families shallow.
SHALLOW: dict[str, dict[str, Any]] = {
    "convnext": {"depths": (1,) * 4},
    "swin": {"depths": (1,) * 4},
    "fastvit_mci3": {"layers": (1,) * 5},
    "fastvit_mci4": {"layers": (1,) * 5},
    "fastvit": {"layers": (1,) * 4},
    "vitamin": {"depth": 1},
}
#: Its stem writes as many channels as it does, whatever width is asked for.
FIXED_WIDTH = ("vit_base_mci",)


def shrunk(name: str, layers: int = 2, d_head: int | None = 8, grid: int | None = GRID) -> nn.Module:
    """The tower; of one that is no transformer only the shape, without values.

    Args:
        d_head: None for the width as it is.
        grid: None for images of their own size.
    """
    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    vision = dict(config["vision_cfg"])
    if "timm_model_name" in vision:
        tower = _shrunk_timm(vision, layers, d_head, grid)
    elif isinstance(vision["layers"], list):
        with torch.device("meta"):
            return _build_vision_tower(config["embed_dim"], {**vision, "layers": [1, 1, 1, 1]}).eval()
    else:
        small = {"layers": layers}
        if d_head is not None:
            small |= {"width": d_head * (vision["width"] // vision.get("head_width", 64)), "head_width": d_head}
        if grid is not None:
            small["image_size"] = grid * vision["patch_size"]
        tower = _build_vision_tower(D_EMBED, {**vision, **small}, bool(config.get("quick_gelu")))
    return tower if any(each.is_meta for each in tower.parameters()) else randomize(tower)


def _shrunk_timm(vision: dict[str, Any], layers: int, d_head: int | None, grid: int | None) -> nn.Module:
    create, name = timm.create_model, vision["timm_model_name"]
    for start, shallow in SHALLOW.items():
        if name.startswith(start):
            with torch.device("meta"):
                return _built(vision, shallow)
    with torch.device("meta"):
        one: Any = create(name, depth=1)
    small: dict[str, Any] = {"depth": layers}
    if grid is not None:
        small["img_size"] = grid * (one.patch_embed.img_size[0] // one.patch_embed.grid_size[0])
    if d_head is not None and not name.startswith(FIXED_WIDTH):
        small["embed_dim"] = d_head * one.blocks[0].attn.num_heads
    return _built(vision, small)


def _built(vision: dict[str, Any], small: dict[str, Any]) -> nn.Module:
    create = timm.create_model

    def smaller(model_name: str, **options: Any) -> nn.Module:
        return create(model_name, **{**options, **small})

    with mock.patch.object(timm, "create_model", smaller):
        return _build_vision_tower(D_EMBED, vision).eval()


def randomize(tower: nn.Module, seed: int = 0) -> nn.Module:
    """Values that hide nothing: weights of a size that matters, norms, biases and scales away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            noise, last = torch.randn(parameter.shape, generator=generator), name.rpartition(".")[2]
            if last.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "gamma" in last:
                parameter.copy_(0.6 + 0.3 * noise)
            elif parameter.ndim == 1 and last == "weight":
                parameter.copy_(1 + 0.3 * noise)
            elif any(kind in last for kind in ("token", "embed", "latent", "query")):
                parameter.copy_(0.5 * noise)
            elif parameter.ndim >= 2:
                fan_in = len(parameter) if last == "proj" else parameter[0].numel()
                parameter.copy_(noise * 1.5 / fan_in**0.5)
            else:
                parameter.add_(0.3 * noise)
    return tower.eval()
