"""What :func:`~clip_decomp.methods.embedding.embed` is given, checked.

Example:
    >>> largest_perplexity(100)
    66.0
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import DataError, SettingError


def unit(features: Tensor, what: str) -> Float[np.ndarray, "image d_embed"]:
    """Unit features.

    Args:
        what: these are, for errors: ``clean`` or ``triggered``.

    Raises:
        DataError: not a matrix, or rows that are zero or not finite.
    """
    found = torch.as_tensor(features).detach().cpu().double()
    if found.ndim != 2 or found.numel() == 0:
        raise DataError(f"Features must be [image, d_embed]; the {what} ones are of shape {list(found.shape)}.")
    norms = found.norm(dim=1, keepdim=True)
    bad = (~(norms.isfinite() & (norms > 0)).squeeze(1)).nonzero()[:, 0].tolist()
    if bad:
        raise DataError(
            f"{len(bad)} of {len(found)} {what} features are zero or not finite, the first in row {bad[0]}: "
            "leave these pictures out on both sides."
        )
    return (found / norms).numpy()


def labels_of(clean: np.ndarray, triggered: np.ndarray, labels: Tensor, target: int | None) -> np.ndarray:
    """The pictures' classes, checked against unit features.

    Args:
        clean, triggered: unit features, image by d_embed, of the same pictures in one order.
        target: the class that the attack aims at, if there is one.

    Raises:
        DataError: they do not fit the features, or leave nothing to compare.
    """
    if clean.shape[1] != triggered.shape[1]:
        raise DataError(
            f"Clean features are {clean.shape[1]} wide, triggered ones {triggered.shape[1]}: take both from one model."
        )
    if len(clean) != len(triggered):
        raise DataError(
            f"{len(clean)} clean and {len(triggered)} triggered features: each picture needs one of both, in one order."
        )
    truths = torch.as_tensor(labels).cpu().numpy()
    if truths.shape != (len(clean),):
        raise DataError(f"{len(clean)} pictures need as many labels, not labels of shape {list(truths.shape)}.")
    classes = np.unique(truths)
    if len(classes) == 1:
        raise DataError(f"All {len(clean)} pictures are of class {classes[0]}: a silhouette needs two classes or more.")
    if len(classes) == len(clean):
        raise DataError(
            f"Each of the {len(clean)} pictures is of a class of its own: a silhouette needs a class of two."
        )
    if target is not None and target not in classes:
        raise DataError(f"No picture is of the target class {target}: add clean ones, or leave the target out.")
    return truths


def largest_perplexity(count: int) -> float:
    """What t-SNE can do with so many pictures, each without and with the trigger."""
    return (2 * count - 2) / 3


def check_settings(count: int, perplexity: float, seed: int) -> None:
    """Refuse settings that t-SNE cannot use.

    Args:
        count: of pictures, each of which is embedded without and with the trigger.

    Raises:
        SettingError: a perplexity below 1 or too large for so few pictures, or a seed out of range.
    """
    most = largest_perplexity(count)
    if not perplexity >= 1:
        raise SettingError(f"The perplexity must be 1 or more, not {perplexity}.")
    if perplexity > most:
        needed = int(np.ceil((3 * perplexity + 2) / 2))
        way_out = f"set perplexity={int(most)} or embed more" if most >= 1 else "embed more"
        raise SettingError(f"A perplexity of {perplexity:g} needs {needed} pictures or more, not {count}: {way_out}.")
    if not 0 <= seed < 2**32:
        raise SettingError(f"The seed of t-SNE lies in 0..4294967295, not {seed}.")
