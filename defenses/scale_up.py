r"""SCALE-UP: a trigger's prediction survives amplified pixels (Guo et al., ICLR 2023).

The scaled prediction consistency is the share of amplified, clipped copies with the input's own class,

.. math:: \text{SPC}(x) = \frac{1}{|S|} \sum_{s \in S} \big[\arg\max p(\min(s x, 1)) = \arg\max p(x)\big],
    \quad S = \{3, 5, 7, 9, 11\}

``variant="data-free"`` is SPC alone. ``variant="data-limited"`` takes from it the mean, and divides by the standard
deviation, of the clean pictures of the predicted class: classes of bright things survive by themselves. He et al.
(2025) do not say which of the two they compare with.

Ours: clean pictures belong to the class that the model gives them, as they may come without labels. A class of fewer
than two of them, or one that they all agree on, takes the missing mean or deviation from all clean pictures.

Limits: SPC has six values, so many scores are tied. Dark triggers, and those that clipping wipes out, are missed.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> detector = ScaleUp(calibration=8).fit(model, open_data("world", 64).held_out)
    >>> detector.consistency(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2])
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE
from clip_decomp.errors import SettingError

from .black_box import BlackBoxDetector

Variant = Literal["data-limited", "data-free"]


class ScaleUp(BlackBoxDetector):
    """A detector of triggered inputs by scaled prediction consistency; see the module.

    Args:
        variant: ``data-limited`` or ``data-free``.
        factors: what pixels are multiplied by.
        calibration, batch_size, seed: see :class:`~defenses.black_box.BlackBoxDetector`.

    Attributes:
        mean_, deviation_: of the clean pictures' consistency, one a class.

    Raises:
        SettingError: a setting out of its range.
    """

    mean_: Float[Tensor, " cls"]
    deviation_: Float[Tensor, " cls"]

    def __init__(
        self,
        variant: Variant = "data-limited",
        factors: tuple[float, ...] = (3, 5, 7, 9, 11),
        calibration: int = 1000,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
    ):
        super().__init__(calibration, batch_size, seed)
        if variant not in ("data-limited", "data-free"):
            raise SettingError(f"Variants are data-limited and data-free, not {variant!r}.")
        if not factors or min(factors) <= 0:
            raise SettingError(f"Pixels need one factor or more, all above 0, not {tuple(factors)}.")
        self.variant, self.factors = variant, tuple(factors)

    def learn(self, pixels: Float[Tensor, "image 3 row column"]) -> None:
        """Measure what consistency is usual for each class, and the cutoff."""
        parts = [self._measured(part.to(self.model_.device)) for part in pixels.split(self.batch_size)]
        found, classes = (torch.cat(each) for each in zip(*parts, strict=True))
        overall = float(found.std(correction=0)) or 1.0
        self.mean_ = found.mean().repeat(len(self.vectors_))
        self.deviation_ = torch.full_like(self.mean_, overall)
        for label in classes.unique():
            own = found[classes == label]
            if len(own) > 1:
                self.mean_[label] = own.mean()
                self.deviation_[label] = float(own.std(correction=0)) or overall
        self.cutoff_ = float(self._judged(found, classes).double().quantile(0.95))

    @torch.no_grad()
    def consistency(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """SPC of pixels in 0..1."""
        return self._measured(pixels)[0]

    def suspicion(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Consistency of a few pictures, by the variant against what is usual for their classes."""
        return self._judged(*self._measured(pixels))

    def _measured(self, pixels: Tensor) -> tuple[Float[Tensor, " batch"], Int[Tensor, " batch"]]:
        own = self.classes(pixels)
        same = [self.classes((factor * pixels).clamp(max=1)) == own for factor in self.factors]
        return torch.stack(same).float().mean(0), own

    def _judged(self, found: Tensor, classes: Tensor) -> Float[Tensor, " batch"]:
        if self.variant == "data-free":
            return found
        return (found - self.mean_[classes]) / self.deviation_[classes]
