"""A model, defended or not, as one function of pixels that can be written into a file, and as itself.

:class:`Graph` spells out what a defense computes, without hooks that come and go, data-dependent branches or lookups
that a file format does not know. :func:`answers` asks the defense itself, in the way that everybody does: the one is
checked against the other.

| defended | outputs |
| --- | --- |
| a model; RVPT, VPT | features |
| CBPT, linear probe | features, logits |
| Decomp-Rep | features; with ``components="auto"`` also flagged: which images are repaired at all |
| Guard | features as its mode has them, flagged, p_value, score |

With class names there are ``logits``, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clip_decomp.convention import PAPER
from clip_decomp.errors import SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.hooked_block import Record

from ..cbpt import CBPT
from ..decomp_rep import DecompRep
from ..decomp_rep_total import DecompRepTotal
from ..fine_tune import FineTune
from ..guard import Guard
from ..linear_probe import LinearProbe
from ..rvpt import RVPT
from .checks import TOLERANCE

if TYPE_CHECKING:
    from .heads import Head

Defended = HookedCLIP | FineTune | RVPT | CBPT | LinearProbe | DecompRep | DecompRepTotal | Guard


def base_of(defended: Defended) -> HookedCLIP:
    """The model whose weights these are."""
    if isinstance(defended, HookedCLIP):
        return defended
    return defended.tuned_ if isinstance(defended, FineTune) else defended.model_


def kind_of(defended: Defended) -> str:
    """What it is, for its card."""
    if isinstance(defended, HookedCLIP):
        return "model"
    if isinstance(defended, Guard):
        return f"guard, mode {defended.mode}"
    return type(defended).__name__


def answers(
    defended: Defended, images: Float[Tensor, "batch 3 row column"], head: Head | None = None
) -> dict[str, Tensor]:
    """What the defense itself says of normalized images."""
    if isinstance(defended, Guard):
        verdict = defended(images)
        found = {"features": verdict.features, "flagged": verdict.flagged, "p_value": verdict.p_values}
        found["score"] = verdict.deviations.score
    elif isinstance(defended, LinearProbe):
        return {"features": base_of(defended).encode_image(images), "logits": defended.classify(images)}
    else:
        found = {"features": defended.encode_image(images)}
        if isinstance(defended, DecompRep) and defended.components == "auto":
            found["flagged"] = defended.deviant(images)
    if head is not None:
        found["logits"] = head.logits(found["features"])
    return found


def on_an_edge(defended: Defended, found: dict[str, Tensor]) -> Bool[Tensor, " batch"]:
    """Which p-values of a guard's answers hang on the last digits of a score: one of the calibration's is as large."""
    if not isinstance(defended, Guard):
        return torch.zeros(len(found["features"]), dtype=torch.bool)
    scores = found["score"]
    near = TOLERANCE * scores.abs().max().clamp(min=1)
    return defended.p_values(scores - near) != defended.p_values(scores + near)


class Graph(nn.Module):
    """One function of pixels in 0..1.

    Args:
        head: adds logits.

    Attributes:
        names: of the outputs, in their order.

    Raises:
        SettingError: what the defense does is not a function of the image alone.
    """

    def __init__(self, defended: Defended, head: Head | None = None):
        super().__init__()
        if isinstance(defended, DecompRep) and (defended.replacement == "random" or isinstance(defended.heads, int)):
            raise SettingError("Random heads or values are no function of the image: there is nothing to export.")
        base = base_of(defended)
        self.tower = base.clip.visual  # so that its weights are the graph's own
        self._parts = (defended, base, head)
        self.names = list(_outputs(defended)) + (["logits"] if head is not None else [])

    def forward(self, pixels: Float[Tensor, "batch 3 row column"]) -> tuple[Tensor, ...]:
        defended, base, head = self._parts
        found = _computed(defended, base.normalize(pixels))
        if head is not None:
            found["logits"] = head.logits(found["features"])
        return tuple(found[name] for name in self.names)


def _outputs(defended: Defended) -> tuple[str, ...]:
    if isinstance(defended, Guard):
        return ("features", "flagged", "p_value", "score")
    if isinstance(defended, DecompRep) and defended.components == "auto":
        return ("features", "flagged")
    return ("features",)


def _computed(defended: Defended, images: Tensor) -> dict[str, Tensor]:
    base = base_of(defended)
    if isinstance(defended, RVPT):
        return {"features": defended.prompted_.visual(images)}
    if isinstance(defended, DecompRepTotal):
        return {"features": base.visual(images, Record(edit_z=defended.repaired))}
    if isinstance(defended, DecompRep):
        dec = base.decompose(images, convention=PAPER)
        found = {"features": defended.repair(dec)}
        if defended.components == "auto":
            found["flagged"] = defended.is_deviant(dec)
        return found
    if isinstance(defended, Guard):
        return _guarded(defended, images)
    return {"features": base.visual(images)}


def _guarded(guard: Guard, images: Tensor) -> dict[str, Tensor]:
    features, deviations = guard.measure(images)
    # A comparison with every calibration score: file formats have no binary search.
    at_least = (guard.reference >= deviations.score[:, None]).sum(-1)
    found = (1 + at_least) / (len(guard.reference) + 1)
    flagged = found <= guard.false_positive_rate
    if guard.mode == "repair":
        repaired = guard.model_.visual(images, Record(edit_z=guard.repairing.repaired))
        features = torch.where(flagged[:, None], repaired, features)
    elif guard.mode == "reject":
        features = torch.where(flagged[:, None], torch.nan, features)
    return {"features": features, "flagged": flagged, "p_value": found, "score": deviations.score}
