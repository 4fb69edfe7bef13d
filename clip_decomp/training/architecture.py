"""Tiny CLIPs built from open_clip's own classes, and an initialization that lets them learn from few samples.

The image tower is a vision transformer, or CLIP's ResNet (Radford et al. 2021) where ``layers`` counts the blocks of
its four stages.

Example:
    >>> architecture = Architecture(layers=2, width=32, heads=2, vocab_size=300)
    >>> build(architecture, seed=0).visual.conv1.weight.shape
    torch.Size([32, 3, 8, 8])
    >>> type(build(Architecture(layers=(1, 1, 1, 1), width=8, heads=4)).visual).__name__
    'ModifiedResNet'
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import ResidualAttentionBlock
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import Tensor, nn

from ..errors import SettingError

#: By how much CLIP's ResNets shrink a picture and, as it happens, widen what they see in it.
RESNET_STRIDE = 32


@dataclass(frozen=True)
class Architecture:
    """Sizes of a CLIP; the defaults are the embedded world's.

    Attributes:
        embed_dim: dimensions of the joint space.
        image_size: side of the pictures in pixels; of a ResNet a multiple of 32, by which it shrinks them.
        patch_size: side of a transformer's patches; a ResNet has none.
        layers: a transformer's blocks, or the blocks of a ResNet's four stages.
        width: of a transformer's residual stream, or of a ResNet's first stage.
        heads: of a transformer's block, or of the attention pool that ends a ResNet (32 times ``width`` wide).
    """

    embed_dim: int = 128
    image_size: int = 64
    patch_size: int = 8
    layers: int | tuple[int, ...] = 8
    width: int = 192
    heads: int = 12
    context_length: int = 32
    vocab_size: int = 640
    text_layers: int = 2
    text_width: int = 128
    text_heads: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.layers, int):
            if self.layers < 1:
                raise SettingError(f"A transformer needs one layer or more, not {self.layers}.")
        else:
            object.__setattr__(self, "layers", tuple(self.layers))  # JSON knows lists only
            self._check_stages()
        patch = RESNET_STRIDE if self.is_resnet else self.patch_size
        if self._attention_width % self.heads or self.text_width % self.text_heads or self.image_size % patch:
            raise SettingError(
                f"Heads must divide widths and patches must divide the image (of a ResNet, 32 times the width and 32 "
                f"pixels): {self}."
            )

    def _check_stages(self) -> None:
        stages = self.layers
        if not isinstance(stages, tuple) or len(stages) != 4 or any(type(n) is not int or n < 1 for n in stages):
            raise SettingError(f"A ResNet has four stages of one block or more each, not layers={stages}.")
        if self.width % 2:
            raise SettingError(f"A ResNet's stem is half as wide as its first stage, so {self.width} must be even.")

    @property
    def is_resnet(self) -> bool:
        """Whether the image tower is a ResNet."""
        return isinstance(self.layers, tuple)

    @property
    def head_width(self) -> int:
        """Dimensions of a head of the image tower."""
        return self._attention_width // self.heads

    @property
    def _attention_width(self) -> int:
        return self.width * RESNET_STRIDE if self.is_resnet else self.width

    def to_dict(self) -> dict[str, int | tuple[int, ...]]:
        """Plain numbers, for a model's card."""
        return asdict(self)


def build(architecture: Architecture, seed: int | None = None) -> CLIP:
    """An open_clip ``CLIP``; with a ``seed``, initialized for training from scratch.

    A vision transformer's initialization uses fixed sine-cosine positions as a start (ViT baseline, Beyer et al., arXiv
    2205.01580) and mimetic attention weights (Trockman & Kolter, arXiv 2305.09828), which make attention local and
    value-output products close to a negative identity, as in trained transformers. ResNets keep open_clip's, and lie in
    memory with channels last, which halves their time on CPUs.
    """
    if seed is not None:
        torch.manual_seed(seed)
    parts = configuration(architecture)
    model = CLIP(parts["embed_dim"], CLIPVisionCfg(**parts["vision_cfg"]), CLIPTextCfg(**parts["text_cfg"]))
    if seed is not None:
        nn.init.constant_(model.logit_scale, 2.3)  # 1 / 0.1
        if not architecture.is_resnet:
            _initialize(model.visual, architecture)
    if architecture.is_resnet:
        model.visual.to(memory_format=torch.channels_last)
    return model


def configuration(architecture: Architecture) -> dict[str, Any]:
    """The same sizes as open_clip's model configurations write them."""
    a = architecture
    patches = {} if a.is_resnet else {"patch_size": a.patch_size}
    return {
        "embed_dim": a.embed_dim,
        "vision_cfg": {
            "layers": a.layers,
            "width": a.width,
            "head_width": a.head_width,
            **patches,
            "image_size": a.image_size,
        },
        "text_cfg": {
            "context_length": a.context_length,
            "vocab_size": a.vocab_size,
            "width": a.text_width,
            "heads": a.text_heads,
            "layers": a.text_layers,
        },
    }


@torch.no_grad()
def _initialize(visual: nn.Module, a: Architecture) -> None:
    grid = a.image_size // a.patch_size
    positions = build_sincos2d_pos_embed([grid, grid], a.width, interleave_sin_cos=True)
    visual.positional_embedding.zero_()
    visual.positional_embedding[1:] = positions * 0.5
    visual.class_embedding.normal_(std=0.02)
    nn.init.trunc_normal_(visual.conv1.weight, std=visual.conv1.weight[0].numel() ** -0.5)
    for block in cast(Iterable[ResidualAttentionBlock], visual.transformer.resblocks):
        _mimetic(block.attn, a.heads)
        nn.init.xavier_uniform_(block.mlp.c_fc.weight)
        nn.init.xavier_uniform_(block.mlp.c_proj.weight)


def _mimetic(attention: nn.MultiheadAttention, heads: int) -> None:
    width = attention.embed_dim
    d_head = width // heads
    query, key, value = attention.in_proj_weight.chunk(3)
    for h in range(heads):
        rows = slice(h * d_head, (h + 1) * d_head)
        product = 0.7 * torch.randn(width, d_head) @ torch.randn(d_head, width) / width + 0.7 * torch.eye(width)
        left, right = _factor(product, d_head)
        query[rows], key[rows] = left.T, right
    product = 0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width)
    left, right = _factor(product, width)
    attention.out_proj.weight.copy_(left)
    value.copy_(right)


def _factor(
    product: Float[Tensor, "d_model d_model"], rank: int
) -> tuple[Float[Tensor, "d_model rank"], Float[Tensor, "rank d_model"]]:
    u, s, v = torch.linalg.svd(product)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]
