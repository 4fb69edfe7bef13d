"""Defended models in forms that run without this package: open_clip, Hugging Face and ONNX folders.

An open_clip or Hugging Face folder holds weights, so it can hold a model that was fine-tuned; a linear probe or tuned
classes' texts are a ``classifier.safetensors`` beside it, visual prompts a ``prompts.safetensors`` with a loader of a
few lines (:mod:`defenses.exporting.prompted`): a prompt acts through its keys and values, for which a plain state dict
has no place. What a repair or a guard does to an image is a computation and no weights: ONNX alone can hold it.

Every export is read back and compared with the defended model on pictures before its folder appears, so there is
either a whole folder with the same outputs, or none.

Limits: ONNX files hold the image side; texts are class vectors, fixed when the file is written. A guard that repairs
runs its tower twice for every image there, flagged or not.

Example:
    >>> import tempfile, clip_decomp
    >>> out = Path(tempfile.mkdtemp()) / "out"
    >>> done = export(clip_decomp.load("world/badnet"), out, "open-clip", torch.rand(2, 3, 64, 64))
    >>> done.largest < 1e-4, (out / "open_clip_model.safetensors").is_file()
    (True, True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from clip_decomp import __version__
from clip_decomp.data.sets import PLAIN_TEMPLATE
from clip_decomp.errors import SettingError
from clip_decomp.models.fingerprint import fingerprint
from clip_decomp.results import versions, write_json

from . import folders
from .checks import TOLERANCE, compared
from .graph import Defended, Graph, answers, base_of, kind_of, on_an_edge
from .heads import Head, head_of
from .staging import staged

Format = Literal["open-clip", "hugging-face", "onnx"]
CARD = "export.json"


@dataclass(frozen=True)
class Exported:
    """An export that was checked.

    Attributes:
        differences: of every output, the largest one over the output's largest value.
        images: how many pictures were compared: all but those whose p-value hangs on rounding, as it does where a
            picture is one of those that set a guard's threshold.
        flagged: how many of them a guard flagged.
    """

    folder: Path
    differences: dict[str, float]
    images: int
    flagged: int | None

    @property
    def largest(self) -> float:
        """The largest difference."""
        return max(self.differences.values())


@torch.no_grad()
def export(
    defended: Defended,
    out: Path,
    form: Format,
    pixels: Float[Tensor, "image 3 row column"],
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] = (PLAIN_TEMPLATE,),
) -> Exported:
    """Write a model, defended or not, and check what was written; an earlier export in ``out`` is replaced.

    Args:
        pixels: in 0..1, what the check compares outputs on; one or more.
        class_names: for ONNX, adds zero-shot logits of these classes; not for what has classes of its own.

    Raises:
        SettingError: the form cannot hold this defense, ``out`` is in use, or a library is missing.
        ModelError: what was written does not give the same outputs, or the model cannot be written in this form.
    """
    if form not in get_args(Format):
        raise SettingError(f"Models are exported as {', '.join(get_args(Format))}, not as {form!r}.")
    if not len(pixels):
        raise SettingError("An export is checked on one picture or more.")
    base, kind = base_of(defended), kind_of(defended)
    head = head_of(defended, class_names, templates)
    if head is not None and class_names and form != "onnx":
        raise SettingError("Zero-shot logits go into ONNX alone: the other forms have the text tower.")
    expected = answers(defended, base.normalize(pixels), head)
    settled = ~on_an_edge(defended, expected).cpu()
    if not settled.any():
        raise SettingError("All pictures are those that set the guard's threshold: check the export on others, too.")
    with staged(out, CARD) as folder:
        if form == "onnx":
            from .onnx_file import run_onnx, write_onnx

            graph = Graph(defended, head)
            write_onnx(graph, folder / "model.onnx", base.visual.image_size)
            found = run_onnx(folder / "model.onnx", pixels)
        else:
            found = folders.write(defended, folder, form, head, pixels)
        sides = ({name: each.cpu()[settled] for name, each in side.items()} for side in (expected, found))
        differences = compared(*sides)
        images = int(settled.sum())
        flagged = int(expected["flagged"].cpu()[settled].sum()) if "flagged" in expected else None
        card = _card(defended, form, head, differences, images, flagged)
        write_json(folder / CARD, {"kind": kind, "base": base.name, "base_sha256": fingerprint(base), **card})
    return Exported(out, differences, images, flagged)


def _card(
    defended: Defended,
    form: Format,
    head: Head | None,
    differences: dict[str, float],
    images: int,
    flagged: int | None,
) -> dict[str, Any]:
    base = base_of(defended)
    side = base.visual.image_size
    taken = {"name": "pixels", "shape": ["batch", 3, side, side], "values": "0..1, RGB", "normalized inside": True}
    if form != "onnx":
        taken |= {"values": "normalized", "normalized inside": False}
    card: dict[str, Any] = {"form": form, "input": taken, "mean": base.mean, "std": base.std}
    card["outputs"] = list(differences)
    card["class_names"] = list(head.class_names) if head is not None else None
    card["checked"] = {"images": images, "flagged": flagged, "differences": differences, "tolerance": TOLERANCE}
    return {**card, "versions": {**versions(), "clip-decomp": __version__}}
