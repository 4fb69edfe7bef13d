"""``HookedCLIP``: a CLIP with its image tower hooked, and the reading methods on it.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> model.encode_text(["a photo of a banana"]).shape
    torch.Size([1, 128])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from .convention import Convention
from .data.images import to_pixels, to_rgb
from .data.sets import PLAIN_TEMPLATE
from .decompose import decompose, decompose_text
from .decomposition import Decomposition
from .errors import SettingError
from .models.hooked_block import attached
from .models.hooked_text import HookedText, UnhookedText, hook_text
from .models.hooking import Tower, hook
from .models.partless import PartlessTower
from .zeroshot import class_vectors

if TYPE_CHECKING:
    from .attacks.triggers import Trigger
    from .inspect import Head


class HookedCLIP:
    """A CLIP whose image tower is a :class:`~clip_decomp.models.hooked_vit.HookedViT`, or a
    :class:`~clip_decomp.models.partless.PartlessTower`, which encodes but has no parts to read.

    Attributes:
        clip: the original open_clip model; its parameters are the only ones.
        visual: the hooked image tower.
        text: the hooked text tower.
        tokenizer: texts to token ids.
        name: where it came from.
        card: what is known of it: architecture, recipe, attack, expected numbers.
        trigger: what calls its backdoor; None for a model that is not known to have one.
        mean, std: the pixel normalization that it was trained with.
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        name: str = "model",
        card: dict[str, Any] | None = None,
        trigger: Trigger | None = None,
    ):
        self.clip, self.tokenizer, self.name = clip, tokenizer, name
        self.visual: Tower = hook(clip.visual)
        self.mean, self.std = tuple(mean), tuple(std)
        self.card, self.trigger = card or {}, trigger

    @cached_property
    def text(self) -> HookedText | UnhookedText:
        """The hooked text tower, hooks on which :meth:`encode_text` obeys.

        Raises:
            ModelError: there is none.
        """
        return hook_text(self.clip)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.visual.parameters()).device

    @property
    def logit_scale(self) -> Tensor:
        """The learned inverse temperature, exponentiated."""
        return self.clip.logit_scale.exp()

    def derived(self, clip: nn.Module, name: str, card: dict[str, Any], trigger: Trigger | None = None) -> HookedCLIP:
        """Other weights of this architecture, ready for use, with this model's tokenizer and normalization.

        Args:
            card: what is known of them; what they have in common with this model is added.
        """
        shared = {
            key: self.card[key]
            for key in ("architecture", "tokenizer", "normalization", "open_clip", "data")
            if key in self.card
        }
        return HookedCLIP(clip.eval(), self.tokenizer, self.mean, self.std, name, {**shared, **card}, trigger)

    def to(self, device: torch.device | str) -> HookedCLIP:
        """Move the weights; returns itself."""
        self.clip.to(device)
        return self

    def normalize(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """Pixels in 0..1 to the towers' input."""
        mean, std = self._moments(pixels)
        return (pixels - mean) / std

    def denormalize(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """The towers' input to pixels in 0..1."""
        mean, std = self._moments(images)
        return images * std + mean

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(each, device=like.device)[:, None, None] for each in (self.mean, self.std))
        return mean, std

    def preprocess(self, image: Image.Image) -> Float[Tensor, "3 row column"]:
        """A PIL image to the towers' input: resized, cropped or squashed as the model's own is, normalized."""
        own = getattr(self.clip.visual, "preprocess_cfg", {})  # open_clip's place for it
        squash = own.get("resize_mode") == "squash"
        resample = Image.Resampling[own.get("interpolation", "bicubic").upper()]
        return self.normalize(to_pixels(to_rgb(image), self.visual.image_size, squash, resample).float() / 255)

    def encode_image(
        self, images: Float[Tensor, "batch 3 row column"], normalize: bool = False
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations.

        Args:
            images: normalized, as :meth:`preprocess` or :meth:`normalize` returns them.
            normalize: divide by the norm.
        """
        features = self.visual(images.to(self.device))
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(
        self, texts: str | Sequence[str] | Tensor, normalize: bool = False
    ) -> Float[Tensor, "text d_embed"]:
        """Text representations of strings or token ids."""
        ids = self._ids(texts)
        if not self._text_listened():
            return self.clip.encode_text(ids, normalize=normalize)
        features = self.text(ids)
        return F.normalize(features, dim=-1) if normalize else features

    def _ids(self, texts: str | Sequence[str] | Tensor) -> Int[Tensor, "text position"]:
        if not isinstance(texts, Tensor):
            texts = [texts] if isinstance(texts, str) else list(texts)
            if not texts:
                raise SettingError("There are no texts to encode.")
            texts = self.tokenizer(texts)
        return texts.to(self.device)

    def _text_listened(self) -> bool:
        """Whether anything listens in the text tower; until someone asks for it there is no hooked one."""
        return "text" in self.__dict__ and any(attached(point) for point in self.text.hook_dict.values())

    def zero_shot(
        self,
        images: Float[Tensor, "batch 3 row column"],
        class_names: Sequence[str],
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
    ) -> Float[Tensor, "batch cls"]:
        """Zero-shot logits of normalized images: scaled cosines with the classes' template vectors."""
        vectors = class_vectors(self, class_names, templates)
        return self.logit_scale.detach() * self.encode_image(images, normalize=True) @ vectors.T

    def decompose(
        self,
        images: Float[Tensor, "batch 3 row column"],
        tokens: bool = False,
        convention: str | Convention = "exact",
    ) -> Decomposition:
        """Exact direct contributions of heads, MLPs and embedding; see :mod:`clip_decomp.decomposition`."""
        return decompose(self.visual, images.to(self.device), tokens, convention)

    def decompose_text(
        self, texts: str | Sequence[str] | Tensor, tokens: bool = False, convention: str | Convention = "exact"
    ) -> Decomposition:
        """The same for texts, or token ids: contributions of the text tower's heads, MLPs and embedding.

        Tokens are positions of the text; see :func:`clip_decomp.decompose.decompose_text`.
        """
        return decompose_text(self.text, self._ids(texts), tokens, convention)

    def head(self, layer: int, head: int) -> Head:
        """One head, to be inspected; negative places count from the end.

        Raises:
            SettingError: there is no such head.
        """
        from .inspect import Head

        layers, heads = self.visual.n_layers, self.visual.n_heads
        if not -layers <= layer < layers or not -heads <= head < heads:
            raise SettingError(f"There is no head L{layer}H{head}: this tower has {layers} layers of {heads} heads.")
        return Head(self, layer % layers, head % heads)

    def __repr__(self) -> str:
        tower = self.visual
        if isinstance(tower, PartlessTower):
            parts = tower.parts_name
        else:
            parts = f"{tower.n_layers} layers of {tower.n_heads} heads"
        return f"HookedCLIP({self.name!r}, {parts}, d_embed={tower.d_embed})"
