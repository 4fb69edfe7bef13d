"""The text features of a pool.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.texts import world_pool
    >>> encode_pool(clip_decomp.load("world/clean"), world_pool().of("size")).shape
    torch.Size([18, 128])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ..errors import ModelError, SettingError
from ..zeroshot import TextEncoder
from .pool import TextPool


@torch.no_grad()
def encode_pool(
    model: TextEncoder, pool: TextPool, batch_size: int = 512, progress: str | None = None
) -> Float[Tensor, "text d_embed"]:
    """Unit-norm float32 features of every text, row k for ``pool.texts[k]``, where the model is.

    Args:
        batch_size: texts at a time.
        progress: what the progress bar says; None for no bar.

    Raises:
        SettingError: the batch size is below 1.
        ModelError: a feature is not finite or zero, so it has no direction; the message names the text.
    """
    if batch_size < 1:
        raise SettingError(f"The batch size must be 1 or more, not {batch_size}.")
    starts = tqdm(range(0, len(pool), batch_size), desc=progress, disable=progress is None, leave=False)
    features = torch.cat([model.encode_text(list(pool.texts[k : k + batch_size])).float() for k in starts])
    norms = features.norm(dim=-1)
    bad = (~(norms.isfinite() & (norms > 0))).nonzero()
    if len(bad):
        text, norm = pool.texts[int(bad[0])], float(norms[bad[0]])
        raise ModelError(f"The text features of {text!r} have norm {norm}: check the text tower's weights.")
    return F.normalize(features, dim=-1)
