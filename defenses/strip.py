r"""STRIP: a trigger wins over whatever a picture is blended with (Gao et al., ACSAC 2019).

The input :math:`x` is superimposed with clean pictures :math:`c_1, \dots, c_n`, and the entropies of the predictions,
here zero-shot ones, are averaged:

.. math:: \text{score}(x) = -\frac{1}{n} \sum_i H\big(p(\cdot \mid w x + (1 - w) c_i)\big)

Clean blends are ambiguous; those of a triggered picture still go to the target, with little entropy. n = 64 clean
pictures are the setting of He et al. (2025); they take them from the test data, we from held-out data. The weights of
the superposition are not given there. Ours, w = 0.5, keep the blend in 0..1. Entropies are in nats.

Limits: global triggers fade under the blend as well, and a model that is sure of everything has low entropies on clean
pictures, too. A picture costs n passes.

Example:
    >>> import clip_decomp
    >>> from clip_decomp.data import open_data
    >>> model = clip_decomp.load("world/badnet")
    >>> detector = STRIP(blends=4, calibration=4).fit(model, open_data("world", 64).held_out)
    >>> detector.score(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1])
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE
from clip_decomp.errors import DataError, SettingError

from .black_box import BlackBoxDetector, at_least


class STRIP(BlackBoxDetector):
    """A detector of triggered inputs by the entropy of blends; see the module.

    Args:
        blends: clean pictures that every input is blended with, the same for all.
        weight: of the input in a blend; the clean picture has the rest.
        calibration, batch_size, seed: see :class:`~defenses.black_box.BlackBoxDetector`. The cutoff is measured on
            clean pictures that are not blended with, unless there are no others.

    Attributes:
        overlays_: the clean pictures that are blended with, in 0..1.

    Raises:
        SettingError: a setting out of its range.
    """

    def __init__(
        self,
        blends: int = 64,
        weight: float = 0.5,
        calibration: int = 100,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
    ):
        super().__init__(calibration, batch_size, seed)
        at_least(1, blends=blends)
        if not 0 < weight < 1:
            raise SettingError(f"The weight of the input in a blend must lie between 0 and 1, not {weight}.")
        self.blends, self.weight = blends, weight

    @property
    def copies(self) -> int:
        """Blends of one picture."""
        return self.blends

    @property
    def apart(self) -> int:
        """Pictures to blend with."""
        return self.blends

    def learn(self, pixels: Float[Tensor, "image 3 row column"]) -> None:
        """Keep pictures to blend with, and measure the cutoff on the others.

        Raises:
            DataError: fewer pictures than blends.
        """
        if len(pixels) < self.blends:
            raise DataError(
                f"STRIP blends with {self.blends} clean pictures, and there are {len(pixels)}: lower blends."
            )
        self.overlays_ = pixels[: self.blends].to(self.model_.device)
        super().learn(pixels[self.blends :] if len(pixels) > self.blends else pixels)

    def suspicion(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Minus the mean entropy of a few pictures' blends."""
        blends = self.weight * pixels[:, None] + (1 - self.weight) * self.overlays_
        logits = self.model_.logit_scale.detach() * self.features(blends.flatten(0, 1)) @ self.vectors_.T
        entropy = torch.special.entr(logits.float().softmax(-1)).sum(-1)
        return -entropy.reshape(len(pixels), -1).mean(1)
