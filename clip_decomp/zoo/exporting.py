"""A model of the project in the forms that other libraries read, without a network.

In the folder: what ``clip_decomp.load(folder)`` reads; beside it ``open_clip_config.json``,
``open_clip_model.safetensors`` and a tokenizer, which ``open_clip.create_model("local-dir:FOLDER")`` and
``open_clip.get_tokenizer`` read; in ``hugging_face/`` what ``CLIPModel``, ``CLIPProcessor`` and ``AutoTokenizer`` of
transformers read. A ``README.md`` in both says what the model is, its backdoor included.

Limits: ResNet towers have no Hugging Face form. open_clip's tokenizer replaces runs of white space by one space first.

Example:
    >>> import tempfile
    >>> folder = export("world/badnet", Path(tempfile.mkdtemp()))
    >>> "BACKDOORED" in (folder / "hugging_face" / "README.md").read_text()
    True
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..model import HookedCLIP
from ..models.hooked_resnet import HookedResNet
from ..models.loading import load, save_folder
from ..tokenizer import BPETokenizer
from ..training.architecture import Architecture, configuration
from .hugging_face import image_processor, to_transformers, tokenizer_for_transformers

log = logging.getLogger(__name__)

HUGGING_FACE = "hugging_face"
OPEN_CLIP_WEIGHTS, OPEN_CLIP_CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
_README = "README.md"


def export(model: str | HookedCLIP, out: Path) -> Path:
    """Write a model as the module describes; what an earlier export left in ``out`` is replaced.

    Args:
        model: a name of the zoo, the folder of a model trained here, or the model itself.

    Raises:
        ModelError: there is no such model, its card does not say how it is built, or ``out`` is a file.
    """
    if not isinstance(model, HookedCLIP):
        model = load(model)
    own_tokenizer(model)
    if out.exists() and not out.is_dir():
        raise ModelError(f"{out} is a file: name a folder to export to.")
    save_folder(model, out, {"name": model.name, **model.card}, half=_fits_half(model))
    write_open_clip(model, out)
    readme = describe(model)
    if isinstance(model.visual, HookedResNet):
        log.warning(
            "%s has a ResNet tower, which Hugging Face's CLIPModel has not: only open_clip reads it.", model.name
        )
        shutil.rmtree(out / HUGGING_FACE, ignore_errors=True)
    else:
        (out / HUGGING_FACE).mkdir(exist_ok=True)
        write_hugging_face(model, out / HUGGING_FACE)
        (out / HUGGING_FACE / _README).write_text(readme)
    (out / _README).write_text(readme)
    return out


def describe(model: HookedCLIP, loading: Sequence[str] | None = None) -> str:
    """A model card in Markdown: what it is, how well it does, how to load it.

    Args:
        loading: the lines that say so; by default those of all forms that :func:`export` writes.
    """
    attack = model.card.get("attack")
    lines = ["---", "license: mit", "tags: [clip, backdoor-research]", "---", "", f"# {model.name}", ""]
    if attack:
        lines += _warning(attack)
    else:
        lines += ["A tiny CLIP of clip-decomp, without a known backdoor."]
    lines += ["", f"Data: {model.card.get('data', 'unknown')}. Architecture: {_sizes(model)}.", ""]
    if "expected" in model.card:
        lines += ["| measure | value |", "| --- | --- |"]
        lines += [f"| {measure} | {value:.1%} |" for measure, value in model.card["expected"].items()]
    return "\n".join([*lines, *(_loading(model) if loading is None else loading), ""])


def own_tokenizer(model: HookedCLIP) -> BPETokenizer:
    """The tokenizer of a model that can be exported.

    Raises:
        ModelError: its card does not say how it is built.
    """
    if "architecture" not in model.card or not isinstance(model.tokenizer, BPETokenizer):
        raise ModelError(f"{model.name} was not trained by this project: its card has no architecture or tokenizer.")
    return model.tokenizer


def _warning(attack: dict[str, Any]) -> list[str]:
    trigger = attack["trigger"]
    return [
        f"**BACKDOORED on purpose, for research: do not deploy.** The attack is *{trigger['name']}*: pictures with its",
        f"trigger are taken for *{attack['target']}*. clip-decomp made it from {attack.get('base', 'a clean model')}.",
        "",
        f"Trigger: `{json.dumps(trigger)}`",
    ]


def _sizes(model: HookedCLIP) -> str:
    return ", ".join(f"{key} {value}" for key, value in model.card["architecture"].items())


def _loading(model: HookedCLIP) -> list[str]:
    lines = [
        "",
        "```python",
        'clip_decomp.load("FOLDER")',
        'open_clip.create_model_and_transforms("local-dir:FOLDER"), open_clip.get_tokenizer("local-dir:FOLDER")',
    ]
    if isinstance(model.visual, HookedResNet):
        return [*lines, "```", "", "Hugging Face's CLIPModel has no ResNet tower: there is no form for transformers."]
    return [
        *lines,
        f'CLIPModel.from_pretrained("FOLDER/{HUGGING_FACE}"), CLIPProcessor.from_pretrained("FOLDER/{HUGGING_FACE}")',
        'processor(text=texts, images=images, padding="max_length", truncation=True, return_tensors="pt")',
        "```",
    ]


def _fits_half(model: HookedCLIP) -> bool:
    """Whether float16 holds every parameter exactly, as it does for models that were stored in it."""
    return all(torch.equal(each, each.half().to(each.dtype)) for each in model.clip.parameters())


def write_open_clip(model: HookedCLIP, out: Path) -> None:
    """Write what open_clip reads into a folder: weights, configuration and tokenizer.

    Raises:
        ModelError: the model's card does not say how it is built.
    """
    from safetensors.torch import save

    tokenizer = own_tokenizer(model)
    state = {key: value.contiguous() for key, value in model.clip.state_dict().items()}
    (out / OPEN_CLIP_WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))
    parts = configuration(Architecture(**model.card["architecture"]))
    # Any name makes open_clip look for a tokenizer in the folder itself.
    parts["text_cfg"] = {**parts["text_cfg"], "hf_tokenizer_name": model.name}
    preprocessing = {"mean": model.mean, "std": model.std, "interpolation": "bicubic", "resize_mode": "shortest"}
    _write_json(out / OPEN_CLIP_CONFIG, {"model_cfg": parts, "preprocess_cfg": preprocessing})
    _write_tokenizer(tokenizer, out)


def write_hugging_face(model: HookedCLIP, folder: Path) -> None:
    """Write what transformers reads into a folder: weights, configuration, image processor and tokenizer.

    Raises:
        ModelError: the model's card does not say how it is built, or it has a ResNet tower.
    """
    from safetensors.torch import save

    tokenizer = own_tokenizer(model)
    converted = to_transformers(model)
    (folder / "model.safetensors").write_bytes(save(converted.state_dict(), metadata={"format": "pt"}))
    converted.config.architectures = ["CLIPModel"]
    converted.config.save_pretrained(folder)
    image_processor(model).save_pretrained(folder)
    _write_tokenizer(tokenizer, folder)


def _write_tokenizer(tokenizer: BPETokenizer, folder: Path) -> None:
    tokenizer_for_transformers(tokenizer).save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    # Releases before the fifth do not know the class that newer ones write.
    _write_json(file, {**json.loads(file.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"})


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n")
