"""Image towers of ``transformers``: CLIP's class token, SigLIP's and SigLIP2's attention pool.

Limits: heads and positions as the models were trained; SigLIP2's positions are not interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ModelError
from ..hooked_parts import HookedNorm
from ..hugging_face import ImageTower
from ..pooling import AttentionPooled, HookedPool
from ..readouts import ClassToken, LinearOutput, Readout
from .open_clip import PackedMultihead, multihead
from .parts import AttentionParts, BlockParts, MLPParts, Projection, Separate, TowerParts, layer_norm


@dataclass(frozen=True)
class ProbeQuery(Projection):
    """The learned probe of SigLIP's pool; keys and values are of the tokens."""

    head: nn.Module

    def __call__(self, x: Tensor, rows: int | None = None) -> Sequence[Tensor]:
        """The same query for every image."""
        weight, bias = self._own.packed()
        width = len(weight) // 3
        q = F.linear(self.head.probe[:, 0].to(x.dtype), weight[:width], None if bias is None else bias[:width])
        return q.expand(len(x), 1, -1), *self.keys_values(x)

    def keys_values(self, x: Tensor) -> Sequence[Tensor]:
        """The rest of the same projection."""
        return self._own.keys_values(x)

    def value_map(self) -> tuple[Tensor, Tensor | None]:
        """The last third."""
        return self._own.value_map()

    @property
    def _own(self) -> PackedMultihead:
        return PackedMultihead(cast(nn.MultiheadAttention, self.head.attention))


class TransformersParts(TowerParts):
    """See the module.

    Raises:
        ModelError: a SigLIP tower without its head.
    """

    def __init__(self, tower: ImageTower):
        self.tower, model = tower, tower.vision_model
        self._embeddings: Any = model.embeddings
        side = tower.image_size // tower.patch_size
        self.grid, self.image_size = (side, side), (tower.image_size, tower.image_size)
        self.d_model, self.d_embed = model.config.hidden_size, tower.output_dim
        self.class_token = hasattr(self._embeddings, "class_embedding")
        self.n_prefix = int(self.class_token)
        # transformers' own spelling
        self.pre_norm = layer_norm(model.pre_layrnorm, "pre_layrnorm") if self.class_token else nn.Identity()
        self.blocks = [encoder_block(each) for each in cast(Iterable[nn.Module], model.encoder.layers)]
        self.readout = _readout(tower, self.class_token)

    def embed(self, images: Tensor) -> Tensor:
        """Patches, and a class token before them if there is one."""
        embedding = self._embeddings.patch_embedding
        images = images.to(embedding.weight.dtype)
        if self.tower.patched:
            return embedding(self.tower.patches(images))
        x = embedding(images).flatten(2).transpose(1, 2)
        if not self.class_token:
            return x
        return torch.cat([self._embeddings.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)

    def positions(self, x: Tensor) -> Tensor:
        """The same for every image."""
        return self._embeddings.position_embedding.weight.to(x.dtype).expand_as(x)


def encoder_block(layer: Any, **more: Any) -> BlockParts:
    """Parts of a layer of CLIP's or SigLIP's encoders, of pictures or texts.

    Args:
        more: of the attention.
    """
    own = layer.self_attn
    attention = AttentionParts(
        own.num_heads, own.head_dim, Separate(own.q_proj, own.k_proj, own.v_proj), own.out_proj, **more
    )
    norms = layer_norm(layer.layer_norm1, "layer_norm1"), layer_norm(layer.layer_norm2, "layer_norm2")
    return BlockParts(attention, _mlp(layer.mlp), *norms)


def _mlp(mlp: Any) -> MLPParts:
    return MLPParts(mlp.fc1, mlp.activation_fn, mlp.fc2)


def _readout(tower: ImageTower, class_token: bool) -> Readout:
    model: Any = tower.vision_model
    norm = HookedNorm(layer_norm(model.post_layernorm, "post_layernorm"))
    maps = () if tower.visual_projection is None else (tower.visual_projection,)
    output = LinearOutput(maps, model.config.hidden_size, model.post_layernorm)
    if class_token:
        return ClassToken(norm, output)
    head = getattr(model, "head", None)
    if head is None:
        raise ModelError("This vision model has no head, so it gives no representation (vision_use_head=False).")
    attention = multihead(head.attention, ProbeQuery(head))
    return AttentionPooled(norm, HookedPool(attention, layer_norm(head.layernorm, "layernorm"), _mlp(head.mlp)), output)
