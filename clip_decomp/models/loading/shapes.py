"""The architecture of a file of weights, as far as its shapes give it away.

Everything but the heads can be read off: their number leaves no trace in any shape. So shapes are compared with those
of open_clip's names, which say it; OpenAI's own models have heads of 64 dimensions each.

Limits: the layout of OpenAI's and open_clip's built-in towers only. Not the activation, which has no shape at all.

Example:
    >>> import open_clip
    >>> names_of(open_clip.create_model("ViT-B-32").state_dict())
    ['ViT-B-32', 'ViT-B-32-quickgelu']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

_OPENAI_HEAD = 64


@dataclass(frozen=True)
class Sizes:
    """Sizes of a CLIP with open_clip's built-in towers."""

    embed_dim: int
    layers: int | tuple[int, ...]
    width: int
    patch_size: int | None
    image_size: int
    context_length: int
    vocab_size: int
    text_width: int
    text_layers: int

    def configuration(self) -> dict[str, Any]:
        """As open_clip writes it, with heads as OpenAI's models have them."""
        vision = {"layers": self.layers, "width": self.width, "image_size": self.image_size}
        vision |= {"head_width": _OPENAI_HEAD} | ({} if self.patch_size is None else {"patch_size": self.patch_size})
        text = {"context_length": self.context_length, "vocab_size": self.vocab_size, "width": self.text_width}
        text |= {"heads": max(1, self.text_width // _OPENAI_HEAD), "layers": self.text_layers}
        return {"embed_dim": self.embed_dim, "vision_cfg": vision, "text_cfg": text}


def sizes_of(state: Mapping[str, Tensor]) -> Sizes | None:
    """Sizes read off a state dict in OpenAI's layout; None if it has another one."""
    try:
        vision = _transformer(state) if "visual.proj" in state else _resnet(state)
        return Sizes(
            embed_dim=state["text_projection"].shape[1],
            context_length=state["positional_embedding"].shape[0],
            vocab_size=state["token_embedding.weight"].shape[0],
            text_width=state["ln_final.weight"].shape[0],
            text_layers=_count(state, "transformer.resblocks."),
            **vision,
        )
    except (KeyError, IndexError, ValueError):
        return None


def _transformer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, _, patch = state["visual.conv1.weight"].shape
    grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = _count(state, "visual.transformer.resblocks.")
    return {"layers": layers, "width": width, "patch_size": patch, "image_size": grid * patch}


def _resnet(state: Mapping[str, Tensor]) -> dict[str, Any]:
    grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
    layers = tuple(_count(state, f"visual.layer{stage}.") for stage in range(1, 5))
    width = state["visual.layer1.0.conv1.weight"].shape[0]
    return {"layers": layers, "width": width, "patch_size": None, "image_size": grid * 32}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Numbered modules behind a prefix."""
    return len({key.removeprefix(prefix).partition(".")[0] for key in state if key.startswith(prefix)})


def names_of(state: Mapping[str, Tensor]) -> list[str]:
    """open_clip's names of models that have these sizes."""
    sizes = sizes_of(state)
    if sizes is None:
        return []
    return [name for name in open_clip.list_models() if _sizes(open_clip.get_model_config(name) or {}) == sizes]


def _sizes(config: Mapping[str, Any]) -> Sizes | None:
    """Sizes that an open_clip configuration asks for; None if its towers are of another kind."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if vision.get("timm_model_name") or text.get("hf_model_name") or config.get("custom_text"):
        return None
    seen, read = CLIPVisionCfg(**vision), CLIPTextCfg(**text)
    resnet = isinstance(seen.layers, (list, tuple))
    size = seen.image_size if isinstance(seen.image_size, int) else seen.image_size[0]
    return Sizes(
        config["embed_dim"],
        tuple(seen.layers) if resnet else seen.layers,
        seen.width,
        None if resnet else seen.patch_size,
        size,
        read.context_length,
        read.vocab_size,
        read.width,
        read.layers,
    )
