"""Figures: functions that take results or plain arrays and return a Plotly figure. A plot never computes a result.

Arrays may be tensors on the CPU; shares in 0..1 are drawn in percent. Names given by the user (of classes, files,
models) are shown literally: Plotly reads ``<b>`` and links in text, so every one of them is escaped. Figures have no
width of their own, legends lie below, and colors are those of Okabe and Ito (2008), which people with the common
color-vision deficiencies can tell apart.

A figure whose layout differs between phone and desk carries both in ``layout.meta``, as arguments of Plotly's
``relayout`` named ``wide`` (as built) and ``narrow``; :mod:`clip_decomp.report` applies the one that fits.

Example:
    >>> import numpy as np
    >>> figure = head_map(np.eye(8, 12), "Heads of a made-up model", "share", percent=True)
    >>> figure.data[0].z.shape, figure.data[0].z.max()
    ((8, 12), np.float64(100.0))
"""

from .ablations import head_map, sweeps
from .costs import group_scores, ranked_costs
from .distributions import detection, roc, similarity
from .embedding import embedding_map
from .images import pictures, sheet
from .look import COLORS
from .overlays import overlay, overlay_grid
from .rates import bars
from .resistivity import resistivity_curves, resistivity_panels
from .settings import setting_panels

__all__ = [
    "COLORS",
    "bars",
    "detection",
    "embedding_map",
    "group_scores",
    "head_map",
    "overlay",
    "overlay_grid",
    "pictures",
    "ranked_costs",
    "resistivity_curves",
    "resistivity_panels",
    "roc",
    "setting_panels",
    "sheet",
    "similarity",
    "sweeps",
]
