"""Models of open_clip: its names with a tag or a file of weights, its folders, and ``hf-hub:`` repositories.

Published tags are left to open_clip, which fetches them; files are opened here (:mod:`.checkpoints`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, get_model_preprocess_cfg, set_model_preprocess_cfg
from open_clip.pretrained import download_pretrained_from_hf, get_pretrained_cfg, list_pretrained_tags_by_model
from torch import nn

from ...errors import ModelError, nearest
from ...model import HookedCLIP
from .checkpoints import SUFFIXES, copy_weights, load_weights, read_state_dict
from .programs import is_program, read_program
from .shapes import names_of, sizes_of
from .stated import Normalization, Statement, activation, agree, normalization
from .texts import tokenizer_of

log = logging.getLogger(__name__)

#: What open_clip calls the description in a folder of its own.
CONFIG = "open_clip_config.json"
# The order in which open_clip takes files of weights in a folder.
_WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a caller says of the weights; None where they say nothing.

    Attributes:
        quick_gelu: the activation.
        mean, std: the pixel normalization.
        image_size: another side of the pictures than the architecture's.
    """

    quick_gelu: bool | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    image_size: int | None = None


def from_name(name: str, pretrained: str | Path | None, asked: Asked) -> HookedCLIP:
    """An open_clip architecture with random, published or local weights.

    Raises:
        ModelError: no such name or tag, weights that do not fit, or an activation or normalization that nobody states.
    """
    if name not in open_clip.list_models():
        from ... import zoo

        near = nearest(name, [*open_clip.list_models(), *zoo.buildable()])
        raise ModelError(
            f"There is no model {name!r}: it is neither a file or folder, nor in the zoo (see 'clip-decomp zoo list'), "
            f"nor an open_clip name; did you mean {near}?"
        )
    if pretrained is None:
        clip = _created(name, None, asked.quick_gelu, asked.image_size)
        pixels = normalization(name, Normalization.of(_config(clip)), asked.mean, asked.std, name)
        return _hooked(clip, name, pixels, _named(name, asked.quick_gelu))
    file = Path(pretrained)
    # A tag is left to open_clip; a local file is opened here, so that nothing in it is executed.
    if file.suffix in SUFFIXES or file.exists():
        return _from_file(name, file, asked)
    tag, tags = str(pretrained), list_pretrained_tags_by_model(name)
    published = get_pretrained_cfg(name, tag)
    if not published:
        raise ModelError(
            f"open_clip cannot load {name!r} with weights {tag!r}: this is neither a tag of published weights "
            f"({'did you mean ' + str(nearest(tag, tags)) + '?' if tags else 'it has none'}) nor a file."
        )
    who = f"the tag {tag!r} of {name}"
    quick = activation(name, (who, bool(published.get("quick_gelu", False))), asked.quick_gelu)
    agree(Normalization.of(published), asked.mean, asked.std, who)
    clip = _created(name, tag, quick, asked.image_size)
    return _hooked(clip, name, Normalization.of(_config(clip)), _named(name, quick), tag)


def _from_file(name: str, file: Path, asked: Asked) -> HookedCLIP:
    stated: Statement | None = None
    if is_program(file):
        program = read_program(file)
        state = program.tensors
        stated = None if program.quick_gelu is None else (f"the program in {file}", program.quick_gelu)
    else:
        state = read_state_dict(file)
    quick = activation(name, stated, asked.quick_gelu)
    pixels = normalization(name, None, asked.mean, asked.std, str(file))
    clip = _created(name, None, quick, asked.image_size)
    copy_weights(clip, state, file, resize=asked.image_size is not None)
    if quick is None and isinstance(clip, CLIP):
        config = open_clip.get_model_config(name) or {}
        log.warning(
            "%s does not say whether it was trained with QuickGELU; assuming %s as %s has. Pass quick_gelu=... if it "
            "was trained with the other one.", file, "QuickGELU" if config.get("quick_gelu") else "GELU", name,
        )  # fmt: skip
    return _hooked(clip, name, pixels, _named(name, quick), str(file))


def from_file(file: Path, asked: Asked) -> HookedCLIP:
    """A file of weights alone; the architecture is read off.

    Raises:
        ModelError: its shapes fit no architecture, or nobody states the activation or normalization.
    """
    program = read_program(file) if is_program(file) else None
    state = program.tensors if program else read_state_dict(file)
    # Names that differ in the activation alone are one architecture.
    names = sorted({each.removesuffix("-quickgelu") for each in names_of(state)} & set(open_clip.list_models()))
    if len(names) == 1:
        return from_name(names[0], file, asked)
    sizes = sizes_of(state)
    if names or program is None or sizes is None:
        fit = f"it could be any of {names}" if names else "its shapes are those of no architecture that open_clip knows"
        raise ModelError(f"{file}: say which architecture it has, load(NAME, pretrained={str(file)!r}): {fit}.")
    who = f"the program in {file}"
    quick = activation(file.name, None if program.quick_gelu is None else (who, program.quick_gelu), asked.quick_gelu)
    if quick is None:
        raise ModelError(f"{file}: its program shows no activation that is known: pass quick_gelu=True or False.")
    built = sizes.configuration()
    vision, text = CLIPVisionCfg(**built["vision_cfg"]), CLIPTextCfg(**built["text_cfg"])
    clip = CLIP(built["embed_dim"], vision, text, quick_gelu=quick)
    copy_weights(clip, state, file)
    pixels = normalization(file.name, None, asked.mean, asked.std, str(file))
    return _hooked(clip, file.stem, pixels, {**built, "quick_gelu": quick}, str(file))


def from_folder(folder: Path, asked: Asked, name: str | None = None) -> HookedCLIP:
    """A folder in open_clip's form, which ``local-dir:`` names.

    Raises:
        ModelError: a description or weights that are missing, cannot be read or do not fit.
    """
    files = [folder / each for each in _WEIGHTS if (folder / each).is_file()]
    files += sorted(each for each in folder.glob("*") if each.suffix in SUFFIXES and each not in files)
    if not files:
        raise ModelError(f"{folder}: there are no weights beside {CONFIG}, such as {_WEIGHTS[0]}.")
    return _described(f"local-dir:{folder}", folder / CONFIG, files[0], asked, name or folder.name)


def from_hub(name: str, asked: Asked) -> HookedCLIP:
    """A repository in open_clip's form on Hugging Face's hub, ``hf-hub:OWNER/NAME``.

    Raises:
        ModelError: it cannot be fetched, is not in the cache, or does not fit.
    """
    repository = name.removeprefix("hf-hub:")
    try:
        config = Path(download_pretrained_from_hf(repository, filename=CONFIG))
        weights = Path(download_pretrained_from_hf(repository))
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{name!r} cannot be fetched, and is not in the local cache: {_first_line(error)} Fetch it where there is "
            "a network, and pass the folder."
        ) from error
    return _described(name, config, weights, asked, name)


def _described(source: str, config: Path, weights: Path, asked: Asked, name: str) -> HookedCLIP:
    try:
        found = json.loads(config.read_text())
        quick, pixels = bool(found["model_cfg"].get("quick_gelu", False)), found.get("preprocess_cfg", {})
        stated = Normalization.of(pixels)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"{config}: not a usable description ({type(error).__name__}: {error}).") from error
    quick = activation(name.removesuffix("-quickgelu"), (str(config), quick), asked.quick_gelu)
    agree(stated, asked.mean, asked.std, str(config))
    clip = _created(source, None, quick, asked.image_size)
    load_weights(clip, weights, resize=asked.image_size is not None)
    return _hooked(clip, name, stated, {**found["model_cfg"], "quick_gelu": quick}, str(weights), source)


def _created(source: str, tag: str | None, quick: bool | None, size: int | None) -> nn.Module:
    """A model by open_clip, with a tag's weights or random ones."""
    options: dict[str, Any] = {} if quick is None else {"quick_gelu": quick}
    if quick:
        options["force_quick_gelu"] = True  # the same again, where open_clip compares it with the tag's
    try:
        return open_clip.create_model(
            source,
            pretrained=tag,
            load_weights=tag is not None,
            pretrained_text=False,
            force_image_size=size,
            **options,
        )
    except (RuntimeError, OSError, ValueError, TypeError, KeyError) as error:
        weights = "" if tag is None else f" with weights {tag!r}"
        raise ModelError(f"open_clip cannot load {source!r}{weights}: {_first_line(error)}") from error


def _named(name: str, quick: bool | None) -> dict[str, Any]:
    """How open_clip describes an architecture of its own."""
    return {**(open_clip.get_model_config(name) or {}), **({} if quick is None else {"quick_gelu": quick})}


def _hooked(
    clip: nn.Module,
    name: str,
    pixels: Normalization,
    described: dict[str, Any],
    weights: str | None = None,
    source: str | None = None,
) -> HookedCLIP:
    """``described``: the architecture as open_clip describes it, kept on the card for whoever stores the model."""
    set_model_preprocess_cfg(clip, {**_config(clip), "mean": pixels.mean, "std": pixels.std})
    known = source is not None or name in open_clip.list_models()
    tokenizer = tokenizer_of((source or name) if known else None)
    card: dict[str, Any] = {} if weights is None else {"pretrained": weights}
    side = getattr(clip.visual, "image_size", described["vision_cfg"].get("image_size"))
    card["open_clip"] = {**described, "vision_cfg": {**described["vision_cfg"], "image_size": side}}
    return HookedCLIP(clip.eval(), tokenizer, pixels.mean, pixels.std, name=name, card=card)


def _config(clip: nn.Module) -> dict[str, Any]:
    return dict(get_model_preprocess_cfg(clip))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
