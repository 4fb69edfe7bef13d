"""The text tower of an open_clip model with a hook point at its token embeddings, whatever kind of tower it is.

``hook_embed`` is what the embedding table gives, before positions are added. With nothing attached nothing is touched.
Known are open_clip's built-in towers, its custom ones (``CustomTextCLIP``) and Hugging Face models.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> tower = HookedText(model.clip)
    >>> _, cache = tower.run_with_cache(model.tokenizer(["a banana"]))
    >>> tuple(cache["hook_embed"].shape), tower.d_model
    ((1, 32, 128), 128)
"""

from __future__ import annotations

from typing import cast

from jaxtyping import Float, Int
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
        if not attached(self.hook_embed):
            return clip.encode_text(tokens)
        handle = self._embedding[0].register_forward_hook(lambda module, args, output: self.hook_embed(output))
        try:
            return clip.encode_text(tokens)
        finally:
            handle.remove()


def _embedding(clip: nn.Module) -> nn.Embedding:
    tower = getattr(clip, "text", clip)
    if hasattr(tower, "token_embedding"):
        return cast(nn.Embedding, tower.token_embedding)
    transformer = getattr(tower, "transformer", None)
    if hasattr(transformer, "get_input_embeddings"):
        return transformer.get_input_embeddings()
    raise ModelError(f"The text tower of {type(clip).__name__} has no table of token embeddings.")
