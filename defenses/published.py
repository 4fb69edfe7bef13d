"""The published algorithms, written down plainly: what benches and tests compare with. Nothing else uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from clip_decomp.errors import ModelError
from clip_decomp.model import HookedCLIP
from clip_decomp.prompts import DeepVisualPrompts


def published_rvpt_loss(
    model: HookedCLIP,
    prompts: DeepVisualPrompts,
    images: Float[Tensor, "batch 3 row column"],
    labels: Int[Tensor, " batch"],
    vectors: Float[Tensor, "cls d_embed"],
    alpha: float = 2.0,
    margin: float = -1.0,
) -> Float[Tensor, ""]:
    """Equations 2 to 6 of RVPT: two full passes through open_clip's own blocks, prompts appended and cut off."""
    tower, first = model.visual.tower, prompts.blocks[0]
    if not isinstance(tower, VisionTransformer) or not model.visual.reads_class_token:
        raise ModelError(f"The published RVPT is written for open_clip's class-token towers, not {model.name}'s.")
    blocks = cast(Sequence[nn.Module], tower.transformer.resblocks)
    with torch.no_grad():
        plain, targets = model.visual.embed(images), []
        for block in blocks:
            plain = block(plain)
            targets.append(plain[:, 0])
    prompted, cosines = model.visual.embed(images), []
    for layer, block in enumerate(blocks):
        if layer in prompts.blocks:
            own = prompts.prompts[prompts.blocks.index(layer)].expand(len(images), -1, -1)
            prompted = block(torch.cat([prompted, own], dim=1))[:, : -prompts.length]
        else:
            prompted = block(prompted)
        if layer >= first:
            cosines.append(F.cosine_similarity(prompted[:, 0], targets[layer], dim=-1))
    features = F.normalize(tower.ln_post(prompted[:, 0]) @ tower.proj, dim=-1)
    logits = model.logit_scale.detach() * features @ vectors.T
    repelling = torch.stack(cosines).mean(0).clamp(min=margin)
    return F.cross_entropy(logits, labels, reduction="sum") + alpha * repelling.sum()
