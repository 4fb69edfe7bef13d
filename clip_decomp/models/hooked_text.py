"""The text tower of an open_clip model with a hook point at its token embeddings, whatever kind of tower it is.

``hook_embed`` is what the embedding table gives, before positions are added. Known are open_clip's built-in towers, its
custom ones (``CustomTextCLIP``) and Hugging Face models.

Where attention is causal and a text's end is read, nothing after the last text's end can matter, and is left out: short
prompts take a sixth of the time and memory that the whole context does. Of other towers every position is run.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> tower = HookedText(model.clip)
    >>> _, cache = tower.run_with_cache(model.tokenizer(["a banana"]))
    >>> tuple(cache["hook_embed"].shape), tower.d_model
    ((1, 4, 128), 128)
"""

from __future__ import annotations

from typing import Any, cast

from jaxtyping import Float, Int
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError
from .hooked_block import attached


class HookedText(HookedRootModule):
    """Hooked view of a model's text tower, over its own weights.

    Raises:
        ModelError: the tower has no table of token embeddings.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self._clip = (clip,)  # a tuple, so that the model stays the only owner of its modules
        self._embedding = (_embedding(clip),)
        self.hook_embed = HookPoint()
        self.setup()

    @property
    def d_model(self) -> int:
        """Width of a token's embedding."""
        return self.table.shape[1]

    @property
    def table(self) -> Float[Tensor, "id d_model"]:
        """The embeddings of all token ids."""
        return self._embedding[0].weight

    def forward(self, tokens: Int[Tensor, "text position"]) -> Float[Tensor, "text d_embed"]:
        """Text representations of token ids."""
        (clip,) = self._clip
        end = self._end(tokens)
        if end is not None:
            return self._beginnings(tokens[:, :end])
        if not attached(self.hook_embed):
            return clip.encode_text(tokens)
        handle = self._embedding[0].register_forward_hook(lambda module, args, output: self.hook_embed(output))
        try:
            return clip.encode_text(tokens)
        finally:
            handle.remove()

    def _end(self, tokens: Tensor) -> int | None:
        """Behind the position that is read of the longest text, if no later one can matter."""
        tower = self._tower
        masked = getattr(tower, "use_pad_mask", False) or getattr(tower, "output_tokens", False)
        if getattr(tower, "attn_mask", None) is None or getattr(tower, "cls_emb", None) is not None or masked:
            return None
        pool, eos = _pooling(tower)
        if pool == "argmax":
            return int(tokens.argmax(-1).max()) + 1
        return int((tokens == eos).int().argmax(-1).max()) + 1 if pool == "eos" else None

    def _beginnings(self, tokens: Tensor) -> Tensor:
        """What open_clip's towers do, which take whole contexts only."""
        tower, end = self._tower, tokens.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        stream = self.hook_embed(tower.token_embedding(tokens).to(dtype)) + tower.positional_embedding[:end].to(dtype)
        stream = tower.ln_final(tower.transformer(stream, attn_mask=tower.attn_mask[:end, :end]))
        pool, eos = _pooling(tower)
        pooled, projection = text_global_pool(stream, tokens, pool, eos_token_id=eos), tower.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection

    @property
    def _tower(self) -> Any:
        (clip,) = self._clip
        return getattr(clip, "text", clip)


def _pooling(tower: Any) -> tuple[str | None, int | None]:
    """How a tower's output is read, and the end of a text; built-in and custom towers name them differently."""
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    return pool, getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))


def _embedding(clip: nn.Module) -> nn.Embedding:
    tower = getattr(clip, "text", clip)
    if hasattr(tower, "token_embedding"):
        return cast(nn.Embedding, tower.token_embedding)
    transformer = getattr(tower, "transformer", None)
    if hasattr(transformer, "get_input_embeddings"):
        return transformer.get_input_embeddings()
    raise ModelError(f"The text tower of {type(clip).__name__} has no table of token embeddings.")
