r"""TeCo: a trigger's prediction holds against some corruptions and breaks at once under others (Liu et al., CVPR 2023).

A picture is corrupted in twelve ways at growing severity. For every corruption :math:`k` let :math:`t_k` be the
lowest severity, of 1 to 5, at which the class changes, and 6 if it never does. Clean pictures give way to all at
about the same severity, triggered ones do not:

.. math:: \text{score}(x) = \sqrt{\tfrac{1}{K} \sum_k (t_k - \bar t)^2}

Classes are zero-shot ones. TeCo itself uses all fifteen corruptions of Hendrycks & Dietterich; He et al. (2025) leave
out defocus, glass and zoom blur for the time they take, and so do we (:mod:`defenses.corruptions`). Their "maximum
severity 6" is the value for a class that never changes.

Limits: a clean picture that one corruption alone confuses looks triggered. A trigger that holds against all
corruptions, or gives way to all, looks clean. A picture costs up to 61 passes; a corruption that has changed the
class goes no further.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/badnet")
    >>> images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> detector = TeCo(("fog", "contrast")).fit(model, images, class_names=["banana", "key"])
    >>> detector.score(images).shape, detector.severities(images).shape
    (torch.Size([4]), torch.Size([4, 2]))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.data.sets import BATCH_SIZE
from clip_decomp.errors import SettingError

from .black_box import BlackBoxDetector
from .corruptions import CORRUPTIONS, SEVERITIES, check_corruption, corrupt


class TeCo(BlackBoxDetector):
    """A detector of triggered inputs by the consistency of their robustness to corruptions; see the module.

    Args:
        corruptions: names in :data:`~defenses.corruptions.CORRUPTIONS`, two or more.
        calibration, batch_size, seed: see :class:`~defenses.black_box.BlackBoxDetector`; noise, weather and directions
            are drawn by the seed.

    Raises:
        SettingError: a setting out of its range.
    """

    def __init__(
        self,
        corruptions: tuple[str, ...] = tuple(CORRUPTIONS),
        calibration: int = 100,
        batch_size: int = BATCH_SIZE,
        seed: int = 0,
    ):
        super().__init__(calibration, batch_size, seed)
        for name in corruptions:
            check_corruption(name)
        if len(set(corruptions)) < 2:
            raise SettingError(f"TeCo compares two corruptions or more, not {list(corruptions)}.")
        self.corruptions = tuple(corruptions)

    @torch.no_grad()
    def severities(self, images: Float[Tensor, "batch 3 row column"]) -> Int[Tensor, "batch corruption"]:
        """The lowest severity of every corruption at which the class of normalized images changes; 6 for none."""
        return self._lowest(self.pixels(images).to(self.model_.device))

    def suspicion(self, pixels: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, " batch"]:
        """Standard deviation, over the corruptions, of the lowest severities that change a few pictures' classes."""
        return self._lowest(pixels).float().std(1, correction=0)

    def _lowest(self, pixels: Tensor) -> Int[Tensor, "batch corruption"]:
        own = self.classes(pixels)

        def under(name: str) -> Callable[[int, Tensor], Tensor]:
            return lambda severity, rows: self.classes(corrupt(pixels[rows], name, severity, self.seed))

        return torch.stack([lowest_change(under(name), own) for name in self.corruptions], dim=1)


def lowest_change(
    classify: Callable[[int, Int[Tensor, " row"]], Int[Tensor, " row"]],
    own: Int[Tensor, " batch"],
    severities: int = SEVERITIES,
) -> Int[Tensor, " batch"]:
    """The lowest severity at which a class changes, and one more than there are if it never does.

    Args:
        classify: severity and places of pictures to their classes; only asked of pictures that have not changed yet.
        own: classes of the pictures as they are.

    Example:
        >>> table = torch.tensor([[0, 1], [7, 1]])  # classes of two pictures at two severities
        >>> lowest_change(lambda severity, rows: table[severity - 1, rows], torch.tensor([0, 1]), severities=2)
        tensor([2, 3])
    """
    found = torch.full_like(own, severities + 1)
    rows = torch.arange(len(own), device=own.device)
    for severity in range(1, severities + 1):
        if not len(rows):
            break
        changed = classify(severity, rows) != own[rows]
        found[rows[changed]] = severity
        rows = rows[~changed]
    return found
