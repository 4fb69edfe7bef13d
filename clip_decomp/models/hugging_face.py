"""``transformers``' CLIP, SigLIP and SigLIP2 models with the face of an open_clip model, over their own modules.

Nothing is copied: :class:`TransformersCLIP` registers the model's own towers, so training, moving or saving the
original and this view of it are the same thing. transformers 4 and 5 name the parts alike; what their feature methods
return differs, so the towers are called here.

Limits: ``Siglip2Model`` takes pictures of any shape as bags of patches; here they are squares that its positions fit
without being interpolated (16 x 16 patches usually). ``CLIPVisionModelWithProjection`` has no texts. Texts are encoded
without a padding mask: CLIP's causal towers do not look behind a text's end, SigLIP's were trained on padded texts.

Example:
    >>> from transformers import CLIPConfig, CLIPModel
    >>> sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> config = CLIPConfig(text_config={**sizes}, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    >>> clip = TransformersCLIP(CLIPModel(config).eval())
    >>> clip.encode_image(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 512])
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import ModelError

#: Classes of transformers that are known, by the ``model_type`` of their configurations.
KINDS = {
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "clip_vision_model": "CLIPVisionModelWithProjection",
}


class ImageTower(nn.Module):
    """Pictures to representations: the vision model, and the projection behind it if there is one.

    Attributes:
        patched: whether the vision model takes patches instead of pictures.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Linear | None):
        super().__init__()
        self.vision_model: Any = vision_model
        self.visual_projection = projection
        self.patched = isinstance(self.vision_model.embeddings.patch_embedding, nn.Linear)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return _one(self.vision_model.config.patch_size)

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        if self.patched:
            return self.vision_model.embeddings.position_embedding_size * self.patch_size
        return _one(self.vision_model.config.image_size)

    @property
    def output_dim(self) -> int:
        """Dimensions of the joint space."""
        projection = self.visual_projection
        return self.vision_model.config.hidden_size if projection is None else projection.out_features

    def patches(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch patch values"]:
        """Patches row by row, colors innermost, as SigLIP2's image processor cuts them."""
        side = self.patch_size
        cut = images.unflatten(2, (-1, side)).unflatten(4, (-1, side))  # batch color rows row columns column
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def forward(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        inputs: tuple[Tensor, ...] = (images,)
        if self.patched:
            grid = self.image_size // self.patch_size
            mask = torch.ones(len(images), grid * grid, device=images.device)
            # By place: releases differ in the mask's name.
            inputs = self.patches(images), mask, torch.full((len(images), 2), grid, device=images.device)
        pooled = _pooled(self.vision_model(*inputs))
        if pooled is None:
            raise ModelError("This vision model has no head, so it gives no representation (vision_use_head=False).")
        return pooled if self.visual_projection is None else self.visual_projection(pooled)


class TextTower(nn.Module):
    """Token ids to representations: the text model, and the projection behind it if there is one."""

    def __init__(self, text_model: nn.Module, projection: nn.Linear | None):
        super().__init__()
        self.text_model, self.text_projection = text_model, projection

    def forward(self, tokens: Int[Tensor, "text position"]) -> Float[Tensor, "text d_embed"]:
        pooled = _pooled(self.text_model(input_ids=tokens))
        assert pooled is not None
        return pooled if self.text_projection is None else self.text_projection(pooled)


class TransformersCLIP(nn.Module):
    """A transformers model with ``visual``, ``encode_image``, ``encode_text`` and ``logit_scale``.

    Attributes:
        visual: the image tower.
        text: the text tower; None where there is none.
        logit_bias: of sigmoid losses; None elsewhere.

    Raises:
        ModelError: a model of another kind.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        if not is_known(model):
            raise ModelError(
                f"{type(model).__name__} of transformers is not supported: take one of {', '.join(KINDS.values())}."
            )
        self._original = (model,)  # a tuple, so that names are not given twice
        self.visual = ImageTower(model.vision_model, getattr(model, "visual_projection", None))
        text = getattr(model, "text_model", None)
        self.text = None if text is None else TextTower(text, getattr(model, "text_projection", None))
        self.logit_scale: nn.Parameter | None = getattr(model, "logit_scale", None)
        self.logit_bias: nn.Parameter | None = getattr(model, "logit_bias", None)
        for own in (self, self.visual, self.text):
            if own is not None:
                own.training = model.training  # the model's own modules keep theirs

    @property
    def original(self) -> nn.Module:
        """The transformers model."""
        return self._original[0]

    def encode_image(
        self, images: Float[Tensor, "batch 3 row column"], normalize: bool = False
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations by transformers itself."""
        features = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(
        self, tokens: Int[Tensor, "text position"], normalize: bool = False
    ) -> Float[Tensor, "text d_embed"]:
        """Text representations by transformers itself.

        Raises:
            ModelError: there is no text tower.
        """
        if self.text is None:
            raise ModelError(f"{type(self.original).__name__} has no text tower: load the whole model for its texts.")
        features = self.text(tokens)
        return F.normalize(features, dim=-1) if normalize else features


def is_known(model: nn.Module) -> bool:
    """Whether a module is one of the supported models of transformers."""
    kinds = {each.__name__ for each in type(model).__mro__ if each.__module__.startswith("transformers.")}
    return bool(kinds & set(KINDS.values()))


def _pooled(output: Any) -> Tensor | None:
    """What a tower read; configurations may ask for tuples."""
    return output[1] if isinstance(output, tuple) else output.pooler_output


def _one(size: Any) -> int:
    """A side that may be given twice."""
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise ModelError(f"Pictures and patches must be squares, not {list(size)}.")
    return int(size[0])
