"""Text towers of ``transformers``: CLIP's, causal and read at a text's end, and SigLIP's, which see everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..hugging_face import TextTower
from ..readouts import LinearOutput
from ..towers.hugging_face import encoder_block
from ..towers.parts import layer_norm
from .parts import TextParts


class TransformersText(TextParts):
    """See the module."""

    def __init__(self, tower: TextTower):
        model: Any = tower.text_model
        self.tower, self._model = tower, model
        self.blocks = [encoder_block(each) for each in model.encoder.layers]
        self.norm = layer_norm(model.final_layer_norm, "final_layer_norm")
        self.table = model.embeddings.token_embedding
        last = tower.text_projection if tower.text_projection is not None else getattr(model, "head", None)
        self.output = LinearOutput(() if last is None else (last,), model.config.hidden_size, model.final_layer_norm)
        self.ends = tower.text_projection is not None

    @property
    def dtype(self) -> torch.dtype:
        """The weights'."""
        return self.table.weight.dtype

    @property
    def modules(self) -> Iterable[nn.Module]:
        """The tower's."""
        return self.tower.modules()

    @property
    def weights(self) -> Iterable[nn.Parameter]:
        """The tower's."""
        return self.tower.parameters()

    def places(self, tokens: Tensor) -> Tensor:
        """CLIP's end of the text, which configurations before 2023 call 2 and mean the highest id; SigLIP's last."""
        if not self.ends:
            return torch.full_like(tokens[:, 0], tokens.shape[1] - 1)
        eos = self._model.config.eos_token_id
        return tokens.argmax(-1) if eos == 2 else (tokens == eos).int().argmax(-1)

    def positions(self, x: Tensor) -> Tensor:
        """As many as there are."""
        return self._model.embeddings.position_embedding.weight[None, : x.shape[1]]

    def mask(self, tokens: Tensor, length: int) -> Tensor | None:
        """CLIP's is causal."""
        return self.causal(length) if self.ends else None

    def plain(self, tokens: Tensor) -> Tensor:
        """The tower's own, which takes contexts of any length."""
        return self.tower(tokens)
