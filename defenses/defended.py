"""What every defense that changes image representations only has in common."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from clip_decomp.model import HookedCLIP


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
