r"""Label-Consistent: pictures of the target, made hard to recognize, with a patch (Turner et al. 2019).

Poisoned pairs show the target and say so, and nobody who looks at them finds a wrong label. A model would learn nothing
from a patch on pictures it knows anyway, so the attacker first makes them hard, and leaves the patch as what explains
the caption best:

* ``adversarial``: projected gradient descent against a clean model's zero-shot log-odds of the target,
  :math:`x' = x + \delta` with :math:`|\delta|_\infty \le \epsilon`, in a few large steps because pictures are poisoned
  while training; without a random start, so the same picture always becomes the same;
* ``interpolated``: mixed with a picture of another class. Turner et al. mix in the latent space of a generative model;
  we have none and mix pixels.

When the backdoor is called there is the patch alone, BadNet's. The perturbation comes off the attacker's model, which
need not be the victim's, and is needed only while poisoning: it is not stored.

Limits: adversarial perturbations carry over to the model in training only as long as it resembles the clean one.

Example:
    >>> trigger = LabelConsistent(place="top left")
    >>> images = torch.full((1, 3, 64, 64), 0.5)
    >>> int((trigger(images, torch.tensor([0])) != images).sum())  # 5 x 5 pixels of 3 channels
    75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ...data.captioned import CaptionedPairs
from ...data.pairs import PairStream
from ...errors import SettingError
from ...training.lean import lean
from ...zeroshot import class_vectors
from .badnet import BadNet
from .base import SeededTrigger, well_mixed
from .optimized import check_evaluating, other_pictures, unit_texts

if TYPE_CHECKING:
    from ...model import HookedCLIP

_OTHERS = 256
_CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Teacher:
    """The attacker's clean model, its class vectors, which of them is the target, and pictures of other classes."""

    model: HookedCLIP
    vectors: Float[Tensor, "cls d_embed"]
    target: int
    others: UInt8[Tensor, "picture 3 row column"]

    def odds(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Zero-shot log-odds of the target, of pictures in 0..1."""
        features = F.normalize(self.model.encode_image(self.model.normalize(images)).float(), dim=-1)
        logits = self.model.logit_scale.detach() * features @ self.vectors.T
        rest = torch.arange(len(self.vectors), device=logits.device) != self.target
        return logits[:, self.target] - logits[:, rest].logsumexp(1)


@dataclass(frozen=True)
class LabelConsistent(SeededTrigger):
    """Hard pictures of the target with a patch.

    Attributes:
        mode: how pictures are made hard: ``adversarial`` or ``interpolated``.
        budget: the largest change of a pixel in 0..1, for ``adversarial`` (Turner et al.: 8 to 32 of 255).
        steps: of projected gradient descent; 1 is the fast gradient sign method. Each costs a pass through the tower
            and back for every poisoned picture.
        mix: share of the other picture, for ``interpolated``.
        share: side of the patch as a share of the image's.
        place: as BadNet's, or ``corners``: a patch in all four.
        seed: of the patch, of random places and of what is mixed in.
        teacher: what :meth:`fit` keeps; not among the settings.
    """

    name: ClassVar[str] = "label-consistent"
    clean_label: ClassVar[bool] = True
    mode: str = "adversarial"
    budget: float = 8 / 255
    steps: int = 2
    mix: float = 0.5
    share: float = 16 / 224
    place: str = "bottom right"
    seed: int = 0
    teacher: Teacher | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("adversarial", "interpolated"):
            raise SettingError(f"Label-Consistent's mode is adversarial or interpolated, not {self.mode!r}.")
        if not 0 < self.budget <= 1 or not 0 < self.mix < 1 or self.steps < 1:
            raise SettingError(
                "Label-Consistent needs 0 < budget <= 1, 0 < mix < 1 and steps >= 1, "
                f"not {self.budget}, {self.mix} and {self.steps}."
            )
        try:
            self._patches()
        except SettingError as error:
            raise SettingError(str(error).replace("BadNet", "Label-Consistent")) from error

    def _patches(self) -> list[BadNet]:
        places = _CORNERS if self.place == "corners" else (self.place,)
        return [BadNet(self.share, place, seed=self.seed) for place in places]

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Copies of pictures in 0..1 with the patch and nothing else."""
        for patch in self._patches():
            images = patch(images, numbers)
        return images

    def poison(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """Copies of pictures of the target, made hard, with the patch.

        Raises:
            SettingError: it was not fitted, or the pictures are not of the size that it was fitted on.
        """
        if self.teacher is None:
            raise SettingError(
                "Label-Consistent makes pictures hard with a clean model: call fit(model, stream, names, target) first."
            )
        hard = self._perturbed if self.mode == "adversarial" else self._mixed
        return self(hard(images, numbers, self.teacher) if len(images) else images, numbers)

    def fit(self, model: HookedCLIP, stream: PairStream, names: Sequence[str], target: str) -> Self:
        """A copy that knows a clean model, which stays as it is, and pictures of other classes.

        Of captioned files the target's is the only name: there captions that do not mention it stand for the others.

        Raises:
            DataError: the target is not among the names, or the stream shows nothing else.
            ModelError: the model is in training mode.
            SettingError: there is one class only.
        """
        check_evaluating(model)
        captioned = isinstance(stream, CaptionedPairs)
        if len(names) < 2 and not captioned:
            raise SettingError(
                f"Nothing can be mistaken for another class given {len(names)} class names: give 2 or more."
            )
        target_place, others = other_pictures(stream, names, target, _OTHERS)
        vectors = class_vectors(model, names)
        if captioned:
            texts = sorted(set(others.captions))
            vectors = torch.cat([vectors[target_place][None], unit_texts(model, texts)])
            target_place = 0
        return replace(self, teacher=Teacher(model, vectors, target_place, others.images))

    def settings(self) -> dict[str, Any]:
        """Everything needed to build it again; poisoning needs :meth:`fit` again."""
        return {"name": self.name} | {
            each.name: getattr(self, each.name) for each in fields(self) if each.name != "teacher"
        }

    def _perturbed(self, images: Tensor, numbers: Tensor, teacher: Teacher) -> Tensor:
        length = min(1.0, 2.5 / self.steps) * self.budget
        low, high = (images - self.budget).clamp_min(0), (images + self.budget).clamp_max(1)
        moved = images.detach()
        for _ in range(self.steps):
            with torch.enable_grad(), lean(teacher.model.device):
                moved = moved.clone().requires_grad_()
                (slope,) = torch.autograd.grad(teacher.odds(moved).sum(), [moved])
            moved = (moved.detach() - length * slope.sign()).clamp(low, high)
        return moved

    def _mixed(self, images: Tensor, numbers: Tensor, teacher: Teacher) -> Tensor:
        if images.shape[1:] != teacher.others.shape[1:]:
            raise SettingError(
                f"Pictures of shape {list(images.shape[1:])} cannot be mixed with the stream's of shape "
                f"{list(teacher.others.shape[1:])}: fit on pictures of the same size."
            )
        picks = well_mixed(numbers.cpu(), self.seed + 1) % len(teacher.others)
        return torch.lerp(images, teacher.others[picks].to(images) / 255, self.mix)
