"""What heads of the last layer take from a trigger: figure 3's token maps, as pictures and as a number.

Finding 3 of He et al. (ICML 2025): heads that attend to the trigger move far under it, the others little.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp import plots
from clip_decomp.contributions import pictures
from clip_decomp.errors import DataError
from clip_decomp.methods.attention import head_maps
from clip_decomp.zeroshot import class_vectors

from ..cams import changed_patches
from .bench import Attacked
from .items import Verdict, called
from .tuned import CLEAR, ranked

#: Pictures that the number is of, and how many are decomposed at a time.
_MANY, _BATCH = 64, 16
_RULE = (
    "the rank correlation between a head's MMD and what it takes from the trigger's patches (mean absolute projection "
    f"on the target's text, of at most {_MANY} pictures that are not of the target class) is at least {CLEAR:g}"
)


def attending(each: Attacked, moved: Float[np.ndarray, " head"]) -> tuple[list[tuple[str, go.Figure]], Verdict]:
    """Maps of one picture, clean and triggered; and whether heads that take most from the trigger move most.

    Args:
        moved: how far the trigger moves every head of the last layer.

    Raises:
        DataError: no test picture that is not of the target class.
    """
    shown, taken = seen(each)
    alike = ranked(taken.tolist(), moved.tolist())
    claim = f"{called(each.attack)}: heads that attend to the trigger move most"
    return _drawn(each, shown), Verdict(claim, _RULE, alike >= CLEAR, f"{alike:.2f} of {len(moved)} heads")


def seen(each: Attacked) -> tuple[dict[str, tuple[Tensor, Tensor]], Float[Tensor, " head"]]:
    """One picture, clean and triggered, with maps of the last layer's heads, and what these take from the trigger."""
    assert each.subject.target is not None
    test = each.subject.data.test.first(_MANY)
    goal = test.class_index(each.subject.target)
    sides = {"clean": None, "triggered": each.subject.trigger}
    batches = (pictures(test, trigger, _BATCH) for trigger in sides.values())
    taken, shown = [], {}
    for (clean, labels, _), (triggered, _, _) in zip(*batches, strict=True):
        foreign = labels != goal
        if not foreign.any():
            continue
        pixels = dict(zip(sides, (clean[foreign], triggered[foreign]), strict=True))
        maps = {side: _maps(each, images) for side, images in pixels.items()}
        shown = shown or {side: ((pixels[side][0] * 255).round().to(torch.uint8), maps[side][0]) for side in sides}
        patches = changed_patches(*pixels.values(), each.subject.model.visual.grid)
        taken.append((maps["triggered"].abs() * patches[:, None]).flatten(2).sum(2))
    if not taken:
        raise DataError(f"{test.name}: all of {len(test)} test pictures are of the target class.")
    return shown, torch.cat(taken).mean(0)


def _maps(each: Attacked, pixels: Float[Tensor, "image 3 y x"]) -> Float[Tensor, "image head row column"]:
    """What patches push toward the target in every head of the last layer."""
    model, last = each.subject.model, each.subject.model.visual.n_layers - 1
    text = class_vectors(model, [str(each.subject.target)], each.subject.data.test.templates)
    dec = model.decompose(model.normalize(pixels), tokens=True)
    return head_maps(dec, text, model.visual.grid, layers=[last])[:, 0, ..., 0].detach().cpu()


def _drawn(each: Attacked, shown: dict[str, tuple[Tensor, Tensor]]) -> list[tuple[str, go.Figure]]:
    last, limit = each.subject.model.visual.n_layers - 1, max(float(maps.abs().max()) for _, maps in shown.values())
    figures = []
    for side, (picture, maps) in shown.items():
        names = [f"L{last}H{head}" for head in range(len(maps))]
        title = f"{called(each.attack)}: last layer's heads, {side}"
        heats = list(maps.numpy())
        figure = plots.overlay_grid(
            picture.numpy(), heats, names, title, "projection on the target's text", limit=limit
        )
        figures.append((f"{called(each.attack)}: what patches of one {side} picture push toward the target.", figure))
    return figures
