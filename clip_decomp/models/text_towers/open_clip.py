"""open_clip's text towers: the one built into ``CLIP``, and ``TextTransformer``, CoCa's class token included.

Limits: blocks of other kinds than the standard one, which no listed model has, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from ...errors import ModelError
from ..readouts import LinearOutput, Output, ParameterOutput
from ..towers.open_clip import residual_block
from ..towers.parts import layer_norm
from .parts import TextParts


class OpenCLIPText(TextParts):
    """See the module.

    Args:
        clip: the model, which itself has the parts unless it has a ``text``.

    Raises:
        ModelError: a block or readout of a kind that is refused.
    """

    def __init__(self, clip: nn.Module):
        tower: Any = getattr(clip, "text", clip)
        self.tower = tower
        self.blocks = [residual_block(each) for each in tower.transformer.resblocks]
        self.norm = layer_norm(tower.ln_final, "ln_final")
        self.output, self.table = _output(tower), tower.token_embedding
        # Built-in and custom towers name these differently.
        self._pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
        self._eos = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
        self._appends = getattr(tower, "cls_emb", None) is not None
        self._padded = self._appends or bool(getattr(tower, "use_pad_mask", False))
        self._causal = tower.attn_mask is not None
        if self._pool not in {"first", "last", "argmax", "eos"}:
            raise ModelError(f"A text tower with pool_type={self._pool!r} gives no single representation.")
        reads_end = self._pool in {"argmax", "eos"} and not getattr(tower, "output_tokens", False)
        self.ends = self._causal and reads_end and not self._padded

    @property
    def dtype(self) -> torch.dtype:
        """What the transformer casts to."""
        return self.tower.transformer.get_cast_dtype()

    @property
    def modules(self) -> Iterable[nn.Module]:
        """Embedding, transformer, norm and projection: a built-in tower is no module of its own."""
        for each in (self.tower.token_embedding, self.tower.transformer, self.tower.ln_final):
            yield from each.modules()
        if isinstance(self.tower.text_projection, nn.Linear):
            yield self.tower.text_projection

    @property
    def weights(self) -> Iterable[nn.Parameter]:
        """Those of the modules, and the tower's own."""
        for module in self.modules:
            yield from module.parameters(recurse=False)
        for name in ("positional_embedding", "text_projection", "cls_emb"):
            value = getattr(self.tower, name, None)
            if isinstance(value, nn.Parameter):
                yield value

    def places(self, tokens: Tensor) -> Tensor:
        """By open_clip's own pooling, of positions' numbers; CoCa's class token is behind the text."""
        length = tokens.shape[1]
        if self._appends:
            return torch.full_like(tokens[:, 0], length)
        numbers = torch.arange(length, device=tokens.device).expand(len(tokens), -1)
        return text_global_pool(numbers, tokens, self._pool or "", eos_token_id=self._eos)

    def positions(self, x: Tensor) -> Tensor:
        """As many as there are."""
        return self.tower.positional_embedding[None, : x.shape[1]].to(self.dtype)

    def extended(self, x: Tensor) -> Tensor:
        """CoCa's class token behind the text."""
        return torch.cat([x, self.tower.cls_emb.to(x.dtype).expand(len(x), 1, -1)], dim=1) if self._appends else x

    def mask(self, tokens: Tensor, length: int) -> Tensor | None:
        """Causal, padding, both or none."""
        causal = self.causal(length) if self._causal else None
        if not self._padded:
            return causal
        # open_clip repeats it for every head.
        padding = self.tower._build_additive_mask(tokens, length, self.dtype)
        padding = padding.view(len(tokens), -1, length, length)[:, :1]
        return padding if causal is None else causal + padding

    def plain(self, tokens: Tensor) -> Tensor:
        """What open_clip's towers do, which take whole contexts only."""
        tower, length, dtype = self.tower, tokens.shape[1], self.dtype
        stream = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
        stream = tower.ln_final(tower.transformer(stream, attn_mask=tower.attn_mask[:length, :length]))
        return self.output(text_global_pool(stream, tokens, self._pool or "", eos_token_id=self._eos))


def _output(tower: Any) -> Output:
    projection = tower.text_projection
    if isinstance(projection, nn.Parameter):
        return ParameterOutput(tower, "text_projection")
    return LinearOutput(() if projection is None else (projection,), tower.ln_final.weight.shape[0], tower.ln_final)
