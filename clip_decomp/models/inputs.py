"""What a hooked tower takes."""

from __future__ import annotations

from torch import Tensor

from ..errors import SettingError


def check_images(images: Tensor, rows: int, columns: int) -> None:
    """Refuse images that no tower of this size can take.

    Raises:
        SettingError: another shape than [batch, 3, rows, columns], or integers.
    """
    expected = (3, rows, columns)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise SettingError(
            f"Images must be [batch, {', '.join(map(str, expected))}], not {list(images.shape)}: "
            "pass them through model.preprocess first."
        )
    if not images.is_floating_point():
        raise SettingError(f"Images must be normalized floats, not {images.dtype}: use model.normalize(pixels / 255).")
