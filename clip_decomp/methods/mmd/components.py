"""MMD of every component between clean and triggered images, one component after another."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from ...errors import DataError
from .correction import Correction, adjust, check_correction, max_p
from .kernel import Sigma, bandwidths, pool
from .statistic import Estimator, check_estimator, permutation_p, splits, squared_mmd

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_LEVEL = 0.05


@dataclass(frozen=True)
class ComponentMMD:
    """Squared MMD of every component (heads: [layer, head], MLPs: [layer]).

    Attributes:
        value: squared MMD times ``scale``.
        sigma: the bandwidths of each component's kernel.
        null: values of the random splits; None without permutations, like all p-values.
        p_value: of each component on its own.
        p_adjusted: corrected for the number of components.
        counts: clean and triggered images.
        paired: whether splits only swapped partners.
    """

    value: Float[Tensor, "*component"]
    sigma: Float[Tensor, "*component bandwidth"]
    null: Float[Tensor, "*component permutation"] | None
    p_value: Float[Tensor, "*component"] | None
    p_adjusted: Float[Tensor, "*component"] | None
    estimator: Estimator
    scale: float
    correction: Correction
    counts: tuple[int, int]
    paired: bool

    @property
    def names(self) -> list[str]:
        """Names of the components in the order of ``value.flatten()``: ``L3H5``, or ``L3`` without a head axis."""
        return [component_name(index) for index in np.ndindex(*self.value.shape)]

    @property
    def null_quantile(self) -> Float[Tensor, "*component"] | None:
        """The value that 95 % of a component's random splits stay below."""
        return None if self.null is None else self.null.quantile(0.95, dim=-1)

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a component; p-values and the null's 95 % quantile if there are any."""
        import pandas as pd

        columns: dict[str, list] = {"component": self.names}
        places = list(np.ndindex(*self.value.shape))
        for axis, name in enumerate(("layer", "head")[: self.value.ndim]):
            columns[name] = [place[axis] for place in places]
        found = {"mmd": self.value, "null_95": self.null_quantile, "p_value": self.p_value}
        for name, values in (found | {"p_adjusted": self.p_adjusted}).items():
            if values is not None:
                columns[name] = values.flatten().tolist()
        return pd.DataFrame(columns)

    def metrics(self, prefix: str) -> dict[str, float]:
        """Flat metrics as in ``results.json``: ``<prefix>/mmd;component=L3H5``, ``/mmd/p``, ``/mmd/p-adjusted``."""
        found = {"mmd": self.value, "mmd/p": self.p_value, "mmd/p-adjusted": self.p_adjusted}
        return {
            f"{prefix}/{measure};component={name}": value
            for measure, values in found.items()
            if values is not None
            for name, value in zip(self.names, values.flatten().tolist(), strict=True)
        }

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format=lambda x: f"{x:.4g}")


def component_name(index: tuple[int, ...]) -> str:
    """``L3H5`` for (3, 5), ``L3`` for (3,)."""
    return "".join(f"{letter}{place}" for letter, place in zip("LH", index, strict=False))


def component_mmd(
    clean: Float[Tensor, "clean *component d"],
    triggered: Float[Tensor, "triggered *component d"],
    sigma: Sigma = 10.0,
    estimator: Estimator = "biased",
    permutations: int = 0,
    seed: int = 0,
    correction: Correction = "holm",
    progress: bool = False,
    scale: float = 1000.0,
    paired: bool = False,
) -> ComponentMMD:
    """Squared MMD of every head ([image, layer, head, d]) or of every MLP or layer ([image, layer, d]).

    One component is copied at a time (in float64), and every component sees the same permutations. Distances do not
    change under an orthonormal change of basis, so a head's contributions may be given as ``d_embed`` numbers, or as
    their ``d_head`` coordinates in an *orthonormal* basis of the head's own space (QR of its output matrix), which
    takes less memory and gives the same result. The coordinates ``z`` themselves are not orthonormal.

    Args:
        sigma, estimator, scale: see :func:`~clip_decomp.methods.mmd.mmd`.
        permutations: random splits for p-values; 0 for none.
        correction: ``holm`` or ``bh`` (false discovery rate) of the p-values; ``max`` compares each component with the
            largest of all components under each permutation. A p-value cannot fall below ``1 / (1 + permutations)``,
            so 144 heads under ``holm`` need 2,879 permutations before one of them can reach 0.05; ``max`` needs 19,
            and it knows that heads go together.
        paired: row i of both are versions of one picture; see :func:`~clip_decomp.methods.mmd.mmd_test`.

    Raises:
        DataError: not one or two component axes, components of different shapes, too few images, values that are not
            finite or no median distance (the message names the component).
        SettingError: see :func:`~clip_decomp.methods.mmd.mmd_test`; an unknown correction.
    """
    least = check_estimator(estimator)
    check_correction(correction)
    if clean.ndim not in (3, 4):
        raise DataError(f"Contributions are [image, layer, d] or [image, layer, head, d], not {list(clean.shape)}.")
    if clean.shape[1:] != triggered.shape[1:]:
        raise DataError(
            f"Clean contributions are {list(clean.shape)}, triggered ones {list(triggered.shape)}: all but the number "
            "of images must agree."
        )
    shape = clean.shape[1:-1]
    groups = splits(len(clean), len(triggered), permutations, seed, paired)
    found, used = [], []
    for index in tqdm(list(np.ndindex(*shape)), desc="MMD", disable=not progress, leave=False):
        where, place = f"{component_name(index)}: ", (slice(None), *index)
        samples = pool(clean[place], triggered[place], least, ("clean", "triggered"), where)
        used.append(bandwidths(samples, sigma, where))
        found.append(squared_mmd(samples, groups, used[-1], estimator, scale))
    value = torch.tensor([one.value for one in found], dtype=torch.float64)
    null = p_value = p_adjusted = None
    if permutations:
        null = torch.stack([one.null for one in found])
        p_value = torch.tensor([permutation_p(one) for one in found], dtype=torch.float64)
        if correction == "max":
            p_adjusted = max_p(value, null, torch.tensor([one.rounding for one in found], dtype=torch.float64))
        else:
            p_adjusted = adjust(p_value, correction)
        if correction == "holm" and len(found) > _LEVEL * (1 + permutations):
            enough = round(len(found) / _LEVEL) - 1
            log.warning(
                f"With {permutations} permutations no adjusted p-value of {len(found)} components can reach {_LEVEL}: "
                f"take {enough} permutations, or correction='max'."
            )
        null, p_value, p_adjusted = (x.unflatten(0, shape) for x in (null, p_value, p_adjusted))
    return ComponentMMD(
        value=value.unflatten(0, shape),
        sigma=torch.tensor(used, dtype=torch.float64).unflatten(0, shape),
        null=null,
        p_value=p_value,
        p_adjusted=p_adjusted,
        estimator=estimator,
        scale=scale,
        correction=correction,
        counts=(len(clean), len(triggered)),
        paired=paired,
    )
