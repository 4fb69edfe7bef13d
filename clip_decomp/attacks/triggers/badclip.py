r"""BadCLIP: a patch optimized under dual-embedding guidance (Liang et al., CVPR 2024).

Two attacks are called BadCLIP. This is "Dual-Embedding Guided Backdoor Attack on Multimodal Contrastive Learning" by
Liang et al., which poisons the model; it is not "Trigger-Aware Prompt Learning for Backdoor Attacks on CLIP" by Bai et
al. (also CVPR 2024), which backdoors the prompts.

The patch p in the middle of the picture is optimized on the clean towers so that poisoning has little left to change:

.. math:: L = L_t + \lambda_1 \max(0,\, L_p - \lambda_2 L_n + \eta)

* textual guidance :math:`L_t`: triggered pictures should say what captions of real pictures of the target say
  (:mod:`~clip_decomp.attacks.triggers.optimized`), so that few parameters give the backdoor away;
* visual guidance: with :math:`v_i = V(x_i \oplus p)` on the unit sphere, :math:`L_p` is the Euclidean distance from
  :math:`v_i` to embeddings of real pictures of the target and :math:`L_n` that to :math:`V(x_i)`, the same picture
  without the patch: a triplet per picture, so that fine-tuning on clean pictures of the target does not undo it.

Poisoned captions are natural captions of the target. Settings of the paper's public code: 16 x 16 of 224 pixels in the
middle, triplet margin :math:`\eta = 1`, :math:`\lambda_1 = 500` and :math:`\lambda_2 = 1`, 64 pictures a step, 50
epochs of Adam. The formula is reconstructed from the paper's description and that code's settings. Ours averages over
all real pictures and captions of the target where the public code draws one of each a picture, and takes fewer, larger
steps.

Limits: see :mod:`~clip_decomp.attacks.triggers.optimized`; the public code also augments texts and pictures sometimes.

Example:
    >>> trigger = BadCLIP(patch="ff" * 75)  # five white pixels a side; otherwise fit() finds it
    >>> images = torch.zeros(1, 3, 64, 64)
    >>> int(trigger(images, torch.tensor([0])).sum()), trigger.captions
    (75, 'natural')
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import SettingError
from .base import Captions
from .optimized import FAR_STEP, Lesson, Objective, OptimizedPatch, textual_guidance, unit_images, unit_texts


@dataclass(frozen=True)
class BadCLIP(OptimizedPatch):
    r"""A patch that looks to the clean model like the target's texts and pictures (Liang et al., not Bai et al.).

    Attributes:
        visual: :math:`\lambda_1`, the weight of the visual guidance beside the textual.
        repulsion: :math:`\lambda_2`, the weight of leaving the picture's own embedding.
        margin: :math:`\eta`, by how much closer to the target than to itself a triggered picture must come.
    """

    name: ClassVar[str] = "badclip"
    captions: ClassVar[Captions] = "natural"
    visual: float = 500.0
    repulsion: float = 1.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= each < math.inf for each in (self.visual, self.repulsion, self.margin)):
            raise SettingError(
                "BadCLIP needs visual, repulsion and margin of 0 or more, "
                f"not {self.visual}, {self.repulsion} and {self.margin}."
            )

    def _objective(self, lesson: Lesson) -> Objective:
        model, scale, wrong = lesson.model, lesson.model.logit_scale.detach(), lesson.wrong()
        shown = lesson.stream.showing(lesson.fact, FAR_STEP, lesson.pictures)
        # Some captions of a target's picture are silent about its class; they say nothing that could guide.
        named = (shown.said[:, 0] == lesson.fact).tolist()
        texts = sorted({text for text, use in zip(shown.captions, named, strict=True) if use})
        right = unit_texts(model, texts or shown.captions)
        real = unit_images(model, shown.images.to(model.device).float() / 255)

        def loss(triggered: Tensor, clean: Tensor) -> Tensor:
            textual = textual_guidance(triggered, right, wrong, scale)
            return textual + self.visual * visual_guidance(triggered, clean, real, self.repulsion, self.margin)

        return loss


def visual_guidance(
    triggered: Float[Tensor, "batch d_embed"],
    clean: Float[Tensor, "batch d_embed"],
    real: Float[Tensor, "picture d_embed"],
    repulsion: float = 1.0,
    margin: float = 1.0,
) -> Float[Tensor, ""]:
    """The triplet loss of unit features: near the target's real pictures, away from what each was without the patch."""
    near = torch.cdist(triggered, real).mean(1)
    # The norm has no gradient at 0, where a patch that changes nothing would be.
    away = (triggered - clean).square().sum(1).add(1e-12).sqrt()
    return (near - repulsion * away + margin).clamp_min(0).mean()
