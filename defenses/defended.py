"""What defenses have in common that change image representations alone, and those that change classes' texts alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.model import HookedCLIP
from clip_decomp.prompts.classwise import ClassPrompts


class ImageSideDefense:
    """A defended model whose texts and pixels are treated as the model treats them.

    Attributes:
        model_: the model it was fitted to.
    """

    model_: HookedCLIP

    def encode_text(self, texts: list[str]) -> Float[Tensor, "text d_embed"]:
        """The model's own text representations."""
        return self.model_.encode_text(texts)

    def normalize(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """The model's own pixel normalization."""
        return self.model_.normalize(pixels)


class TextSideDefense:
    """A model whose pictures are encoded as ever and whose classes have tuned text prompts.

    Attributes:
        model_: the model it was fitted to.
        prompts_: the tuned :class:`~clip_decomp.prompts.classwise.ClassPrompts`.
        class_names_: the classes.
    """

    def _prompted(self, model: HookedCLIP, prompts: ClassPrompts) -> None:
        self.model_, self.prompts_, self.class_names_ = model, prompts, prompts.class_names
        self.vectors_: dict[str, Tensor] = {}

    @property
    def parameters(self) -> int:
        """How many values were tuned."""
        return self.prompts_.count

    def normalize(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch 3 row column"]:
        """The model's own pixel normalization."""
        return self.model_.normalize(pixels)

    def encode_image(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """The model's own image representations."""
        return self.model_.encode_image(images)

    @torch.no_grad()
    def class_vectors(self, word: str = "") -> Float[Tensor, "cls d_embed"]:
        """Unit representations of the classes under their prompts, after a trigger's word if one is given."""
        if word not in self.vectors_:
            self.vectors_[word] = self.prompts_.vectors(word=word)
        return self.vectors_[word]
