"""Text towers as TransformerLens ``HookedRootModule``, over their library's own modules.

Texts are read as pictures are: the same hook points under the same names (:mod:`clip_decomp.models.hooked_vit`), the
same exact sum (:meth:`clip_decomp.model.HookedCLIP.decompose_text`), with positions of a text for tokens.
``hook_embed`` is what the embedding table gives, before positions are added. Known are open_clip's built-in and custom
towers, CoCa's with its class token, and transformers' CLIP and SigLIP. Others, such as BERT's, have ``hook_embed``
alone.

Where attention is causal and a text's end is read, nothing behind the last text's end can matter, and is left out:
short prompts take a sixth of the time and memory that the whole context does. Of other towers every position is run.
While nothing but ``hook_embed`` is listened to, the library's own transformer runs.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> _, cache = model.text.run_with_cache(model.tokenizer(["a banana"]))
    >>> tuple(cache["hook_embed"].shape), tuple(cache["blocks.1.attn.hook_pattern"].shape)
    ((1, 4, 128), (1, 4, 4, 4))
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError
from .hooked_block import HookedBlock, attached
from .hooked_parts import HookedNorm
from .kept import Kept, Value
from .partless import Refusing
from .readers import ChosenToken
from .readouts import ClassToken
from .recording import Record
from .text_towers.adapters import text_parts_of
from .text_towers.parts import TextParts


class UnhookedText(Refusing):
    """Hooked view of any text tower with a table of embeddings, at ``hook_embed`` alone.

    Args:
        reason: why it cannot be taken apart, a sentence.

    Raises:
        ModelError: the tower has no table of token embeddings.
    """

    def __init__(self, clip: nn.Module, reason: str):
        super().__init__()
        self._clip = (clip,)  # a tuple, so that the model stays the only owner of its modules
        self._embedding = (_embedding(clip),)
        self.refusal = f"{reason} Encoding, zero-shot classification and prompt tuning work."
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
        return _listened(self.hook_embed, self._embedding[0], lambda: clip.encode_text(tokens, normalize=False))


class HookedText(HookedRootModule):
    """Hooked view of a text transformer, over its own weights.

    Attributes:
        blocks: one :class:`~clip_decomp.models.hooked_block.HookedBlock` a layer.
        n_prefix: tokens before those of the text: none.

    Raises:
        ModelError: a tower whose parts are not known.
    """

    blocks: Sequence[HookedBlock]
    n_prefix = 0

    def __init__(self, clip: nn.Module):
        super().__init__()
        parts = text_parts_of(clip)
        self._clip, self._parts = (clip,), (parts,)  # tuples, so that the model stays the only owner of its modules
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()
        self.blocks = cast(Sequence[HookedBlock], nn.ModuleList([HookedBlock(block) for block in parts.blocks]))
        self.ln_final = HookedNorm(parts.norm)
        self._readout = (ClassToken(self.ln_final, parts.output),)
        self._kept = Kept(lambda: parts.weights)
        self.setup()
        self._inner = [each for each in self.modules() if isinstance(each, HookPoint) and each is not self.hook_embed]

    @property
    def parts(self) -> TextParts:
        """The library's modules."""
        return self._parts[0]

    @property
    def readout(self) -> ClassToken:
        """How the stream is read at the one position that is."""
        return self._readout[0]

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
        return self.table.shape[1]

    @property
    def table(self) -> Float[Tensor, "id d_model"]:
        """The embeddings of all token ids."""
        return self.parts.table.weight

    def forward(
        self, tokens: Int[Tensor, "text position"], record: Record | None = None
    ) -> Float[Tensor, "text d_embed"]:
        """Text representations of token ids; a ``record`` collects what a decomposition needs."""
        parts = self.parts
        if parts.ends:
            tokens = tokens[:, : int(parts.places(tokens).max()) + 1]
        if record is None and not any(attached(point) for point in self._inner):
            return self._plain(tokens)
        x = parts.extended(self.hook_embed(parts.table(tokens).to(parts.dtype)))
        x = x + self.hook_pos_embed(parts.positions(x).expand_as(x))
        places, mask = parts.places(tokens), parts.mask(tokens, x.shape[1])
        reader = ChosenToken(places)
        if record is not None:
            record.reader, record.layers = reader, self.n_layers
        for block in self.blocks:
            x = block(x, record, mask=mask)
        if record is not None:
            record.ended(x)
        return self.readout(reader.take(x)[:, None])

    def kept(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` derives from the weights, made once for weights as they are; see :mod:`.kept`."""
        return self._kept(name, make)

    def check_mode(self) -> None:
        """Refuse a tower of which any part is in training mode, with a ModelError."""
        for module in self.parts.modules:
            if module.training:
                raise ModelError(f"The text tower ({type(module).__name__}) is in training mode: call .eval() first.")

    def _plain(self, tokens: Tensor) -> Tensor:
        """By the library's own transformer."""
        (clip,) = self._clip
        encode = self.parts.plain if self.parts.ends else lambda ids: clip.encode_text(ids, normalize=False)
        return _listened(self.hook_embed, self.parts.table, lambda: encode(tokens))


def hook_text(clip: nn.Module) -> HookedText | UnhookedText:
    """The view of a model's text tower that shows most.

    Raises:
        ModelError: there is no text tower, or one without a table of token embeddings.
    """
    if getattr(clip, "text", clip) is None or not hasattr(clip, "encode_text"):
        raise ModelError(f"{type(clip).__name__} has no text tower here: load the whole model for its texts.")
    try:
        return HookedText(clip)
    except ModelError as reason:
        return UnhookedText(clip, str(reason))


def _listened(point: HookPoint, embedding: nn.Embedding, encode: Callable[[], Tensor]) -> Tensor:
    """Encode while what ``embedding`` gives passes a hook point."""
    if not attached(point):
        return encode()
    handle = embedding.register_forward_hook(lambda module, args, output: point(output))
    try:
        return encode()
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
