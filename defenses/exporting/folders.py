"""Folders that open_clip and Hugging Face read, with what a defense adds to them, read back by these libraries."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clip_decomp.errors import SettingError
from clip_decomp.zoo.exporting import describe, write_hugging_face, write_open_clip

from ..decomp_rep import DecompRep
from ..decomp_rep_total import DecompRepTotal
from ..guard import Guard
from ..rvpt import RVPT
from . import prompted
from .graph import Defended, base_of
from .heads import CARD, WEIGHTS, Head

PROMPTS, LOADER = "prompts", "prompted.py"
_CALLS = {
    "open-clip": 'open_clip.create_model_and_transforms("local-dir:FOLDER")',
    "hugging-face": 'CLIPModel.from_pretrained("FOLDER")',
}


def write(
    defended: Defended, folder: Path, form: str, head: Head | None, pixels: Float[Tensor, "image 3 row column"]
) -> dict[str, Tensor]:
    """Write a folder; returns what the library that it is for makes of pixels.

    Raises:
        SettingError: what the defense does is no weights.
        ModelError: the model's card does not say how it is built, or the form has no such tower.
    """
    if isinstance(defended, DecompRep | DecompRepTotal | Guard):
        raise SettingError(
            f"{type(defended).__name__} computes something on every image, and {form} folders hold weights alone: "
            "export it as onnx."
        )
    base = base_of(defended)
    write_one = write_open_clip if form == "open-clip" else write_hugging_face
    write_one(base, folder)
    notes = ["", f"Loaded by `{_CALLS[form]}`."]
    if head is not None:
        head.write(folder)
        notes += ["", f"Classes are told by `{WEIGHTS}`; `{CARD}` names them and says how."]
    if isinstance(defended, RVPT):
        defended.save(folder / PROMPTS)
        shutil.copyfile(prompted.__file__, folder / LOADER)
        notes += [
            "",
            "This model is defended by visual prompts. The weights alone are the *undefended* model: a state dict has",
            f"no place for prompts' keys and values. `{LOADER}` attaches them, in two lines that its head shows.",
        ]
    (folder / "README.md").write_text(describe(base, notes))
    features = _read_open_clip(folder) if form == "open-clip" else _read_hugging_face(folder)
    found = {"features": features(base.normalize(pixels))}
    if head is not None:
        found["logits"] = _read_head(folder, head)(found["features"])
    return found


def _read_open_clip(folder: Path) -> Callable[[Tensor], Tensor]:
    import open_clip

    clip = open_clip.create_model(f"local-dir:{folder.resolve()}").eval()
    if (folder / PROMPTS).is_dir():
        prompted.attach(clip.visual.transformer.resblocks, folder / PROMPTS)
    return lambda images: clip.encode_image(images)


def _read_hugging_face(folder: Path) -> Callable[[Tensor], Tensor]:
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(folder).eval()
    if (folder / PROMPTS).is_dir():
        prompted.attach(clip.vision_model.encoder.layers, folder / PROMPTS)

    def features(images: Tensor) -> Tensor:
        found: Any = clip.get_image_features(pixel_values=images)
        return found if isinstance(found, Tensor) else found.pooler_output  # a tensor before the fifth release

    return features


def _read_head(folder: Path, head: Head) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    return Head(head.class_names, tensors["weight"], tensors["bias"]).logits
