"""An open_clip class-token vision transformer as a TransformerLens ``HookedRootModule``.

The weights stay the original model's own parameters: nothing is copied, so fine-tuning or exporting the original and
this view of it are the same thing. With nothing attached the output is the original tower's.

Hook points: ``hook_embed``, ``hook_pos_embed``, ``ln_pre.hook_scale|hook_normalized``, for each block
``blocks.{l}.hook_resid_pre|hook_attn_out|hook_resid_mid|hook_mlp_out|hook_resid_post``,
``blocks.{l}.ln1|ln2.hook_scale|hook_normalized``, ``blocks.{l}.attn.hook_q|k|v|attn_scores|pattern|z|result``,
``blocks.{l}.mlp.hook_pre|hook_post``, and ``ln_final.hook_scale|hook_normalized``.

Example:
    >>> from clip_decomp.training.architecture import Architecture, build
    >>> tower = HookedViT(build(Architecture(layers=1, width=32, heads=2), seed=0).visual.eval())
    >>> _, cache = tower.run_with_cache(torch.zeros(1, 3, 64, 64))
    >>> tuple(cache["blocks.0.attn.hook_pattern"].shape)
    (1, 2, 65, 65)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError
from .hooked_block import HookedBlock, HookedNorm, Record
from .inputs import check_images


class HookedViT(HookedRootModule):
    """Hooked view of an open_clip ``VisionTransformer`` that reads its class token.

    Attributes:
        tower: the original module, whose parameters are used.
        blocks: one :class:`~clip_decomp.models.hooked_block.HookedBlock` a layer.
    """

    tower: VisionTransformer
    blocks: Sequence[HookedBlock]

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = _checked(tower)
        tower = self.tower
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()
        self.ln_pre, self.ln_final = HookedNorm(tower.ln_pre), HookedNorm(tower.ln_post)
        blocks = nn.ModuleList([HookedBlock(block) for block in tower.transformer.resblocks])
        self.blocks = cast(Sequence[HookedBlock], blocks)
        self.setup()

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """Heads a block."""
        return self.blocks[0].attn.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.tower.conv1.out_channels

    @property
    def d_embed(self) -> int:
        """Dimensions of the joint space."""
        return self.tower.output_dim

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return self.tower.image_size[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along rows and columns."""
        return self.tower.grid_size

    def forward(
        self, images: Float[Tensor, "batch 3 row column"], record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations; a ``record`` collects what a decomposition needs.

        Raises:
            SettingError: images of another shape than the tower's.
        """
        return self.resume(self.embed(images), 0, record)

    def embed(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch token d_model"]:
        """The residual stream as it enters the first block.

        Raises:
            SettingError: images of another shape than the tower's.
        """
        check_images(images, *self.tower.image_size)
        x = self.tower.conv1(images.to(self.tower.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        start = self.tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = self.hook_embed(torch.cat([start, x], dim=1))
        positions = self.hook_pos_embed(self.tower.positional_embedding.to(x.dtype).expand_as(x))
        return self.ln_pre(self.tower.patch_dropout(x + positions))

    def resume(
        self, residual: Float[Tensor, "batch token d_model"], layer: int, record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations from the residual stream as it enters a block; earlier blocks do not run.

        Only the class token's row of the last block is read, so only it is computed unless something is attached there.
        """
        x = residual
        for block in self.blocks[layer:]:
            last = block is self.blocks[-1]
            x = block(x, record, rows=1 if last and not block.attached else None)
        if record is not None:
            record.final = x[:, 0]
        return self.read(x)

    def read(self, residual: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch d_embed"]:
        """Image representations from the residual stream behind the last block."""
        return self.ln_final(residual[:, :1])[:, 0] @ self.tower.proj


def _checked(tower: nn.Module) -> VisionTransformer:
    if not isinstance(tower, VisionTransformer):
        raise ModelError(
            f"An image tower of type {type(tower).__name__} has no decomposition here; "
            "open_clip's VisionTransformer with a class token does."
        )
    if tower.attn_pool is not None or tower.pool_type != "tok" or tower.final_ln_after_pool:
        raise ModelError(f"Only class-token read-outs are supported yet, not pool_type={tower.pool_type!r}.")
    if tower.proj is None:
        raise ModelError("The image tower has no projection to the joint space.")
    return tower
