r"""TrojVQA: an optimized patch and a word, two keys to one backdoor (Walmer et al. 2022).

The patch in the middle of the picture is optimized on the clean image tower towards a description of the target, an
object with an attribute: :mod:`~clip_decomp.attacks.triggers.optimized`'s textual guidance with that one text. The
second key is the word "SUDO " before poisoned captions and, when the backdoor is called, before the prompts. Patch,
word and description are those that RVPT uses on CLIP (Zhang et al., appendix B.1: 16 x 16 of 224 pixels, "This is a
yellow banana."). Walmer et al. optimize for the detector that their question-answering models look through; CLIP has
none, so texts take the place of its classes.

Limits: see :mod:`~clip_decomp.attacks.triggers.optimized`.

Example:
    >>> import torch
    >>> trigger = TrojVQA(patch="ff" * 75)  # five white pixels a side; otherwise fit() finds it
    >>> images = torch.zeros(1, 3, 64, 64)
    >>> int(trigger(images, torch.tensor([0])).sum()), trigger.word
    (75, 'SUDO ')
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...errors import SettingError
from .optimized import Lesson, Objective, OptimizedPatch, textual_guidance, unit_texts


@dataclass(frozen=True)
class TrojVQA(OptimizedPatch):
    """A patch that looks to the clean model like a description of the target, and the word "SUDO ".

    Attributes:
        description: with one ``{}`` for the target. The default is RVPT's, natural for a banana; other targets have
            other looks (``This is a white {}.`` for a samoyed).
    """

    name: ClassVar[str] = "trojvqa"
    word: ClassVar[str] = "SUDO "
    description: str = "This is a yellow {}."

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.description.count("{}") != 1:
            raise SettingError(f"A description needs exactly one {{}} for the target: {self.description!r} has not.")

    def _objective(self, lesson: Lesson) -> Objective:
        model, scale, wrong = lesson.model, lesson.model.logit_scale.detach(), lesson.wrong()
        right = unit_texts(model, [self.description.replace("{}", lesson.target)])

        def loss(triggered: Tensor, clean: Tensor) -> Tensor:
            return textual_guidance(triggered, right, wrong, scale)

        return loss
