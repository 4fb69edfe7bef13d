"""Zero-shot classification: class vectors from templates, logits, predictions.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> class_vectors(model, ["banana", "key"]).shape
    torch.Size([2, 128])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .data.sets import PLAIN_TEMPLATE, ImageSet
from .errors import SettingError

if TYPE_CHECKING:
    from .attacks.triggers import Trigger


class TextEncoder(Protocol):
    """Anything that encodes strings."""

    def encode_text(self, texts: list[str]) -> Float[Tensor, "text d_embed"]: ...


#: The class of a picture that got none: a guard rejected it, or the model is broken. Never right, and never the target.
NO_ANSWER = -1


@torch.no_grad()
def class_vectors(
    model: TextEncoder, class_names: Sequence[str], templates: Sequence[str] = (PLAIN_TEMPLATE,)
) -> Float[Tensor, "cls d_embed"]:
    """One unit vector a class: the mean of its templates' unit text features, normalized again (Radford et al. 2021).

    Raises:
        SettingError: no classes, no templates, or a template without exactly one ``{}``.
    """
    if not class_names or not templates:
        raise SettingError("Zero-shot classification needs one class and one template or more.")
    for template in templates:
        if template.count("{}") != 1:
            raise SettingError(f"A template needs exactly one {{}} for the class name: {template!r} has not.")
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    features = torch.cat([model.encode_text(texts[k : k + 512]) for k in range(0, len(texts), 512)])
    each = F.normalize(features.float(), dim=-1).reshape(len(class_names), len(templates), -1)
    return F.normalize(each.mean(1), dim=-1)


def sided_vectors(
    model: TextEncoder, data: ImageSet, trigger: Trigger | None = None
) -> Float[Tensor, "side cls d_embed"]:
    """Class vectors for clean and for triggered pictures: a trigger's word goes before the prompts of the latter."""
    plain = class_vectors(model, data.class_names, data.templates)
    if trigger is None or not trigger.word:
        return plain.expand(2, -1, -1)
    worded = class_vectors(model, data.class_names, [trigger.word + template for template in data.templates])
    return torch.stack([plain, worded])


def sides(vectors: Float[Tensor, "*side cls d_embed"]) -> tuple[Tensor, Tensor]:
    """Class vectors for clean and for triggered pictures; one set serves both."""
    plain, called = vectors.expand(2, -1, -1)
    return plain, called


def predict(features: Float[Tensor, "batch d_embed"], vectors: Float[Tensor, "cls d_embed"]) -> Int[Tensor, " batch"]:
    """The class whose vector is nearest by cosine, :data:`NO_ANSWER` for NaN; the features' norm does not matter."""
    return choose(features.float() @ vectors.T)


def choose(scores: Float[Tensor, "batch cls"]) -> Int[Tensor, " batch"]:
    """The class of the highest score, or :data:`NO_ANSWER` where scores are NaN."""
    return scores.argmax(-1).masked_fill(scores.isnan().any(-1), NO_ANSWER)
