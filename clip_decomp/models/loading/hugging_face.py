"""Models of ``transformers``: live ones, folders as ``save_pretrained`` writes them, and repositories of the hub.

The configuration says the activation, the folder's image processor how pictures are resized and normalized, its
tokenizer how texts become ids; all three are taken over. Repositories are looked up in the local cache first, then on
the hub; code that a repository brings along is never run.

Limits: a folder whose weights are pickles is opened with ``weights_only``; one without an image processor needs
``mean=`` and ``std=``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Int
from open_clip.model import set_model_preprocess_cfg
from torch import Tensor, nn

from ...errors import ModelError
from ...model import HookedCLIP
from ..hugging_face import KINDS, TransformersCLIP
from .live import check_evaluating
from .named import Asked
from .stated import Normalization, activation, agree

log = logging.getLogger(__name__)

#: What transformers calls the description in a folder.
CONFIG = "config.json"
_LISTED = 10
# What transformers' own image processors do where nothing else is known.
_HALF = (0.5, 0.5, 0.5)
_USUAL = {
    "clip": Normalization(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
    "siglip": Normalization(_HALF, _HALF),
}
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class TransformersTokenizer:
    """A tokenizer of transformers, callable as open_clip's are: ``tokenizer(texts) -> [text, position]`` ids."""

    def __init__(self, tokenizer: Any, context_length: int):
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, texts: str | list[str]) -> Int[Tensor, "text position"]:
        """Padded and cut to the text tower's context."""
        options = {"padding": "max_length", "truncation": True, "max_length": self.context_length}
        return self.tokenizer([texts] if isinstance(texts, str) else list(texts), return_tensors="pt", **options)[
            "input_ids"
        ]


def is_folder(folder: Path) -> bool:
    """Whether a folder is in transformers' form."""
    try:
        return "model_type" in json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError, TypeError):
        return False


def from_transformers(
    model: nn.Module, tokenizer: Callable[[list[str]], Tensor] | None, asked: Asked, name: str | None = None
) -> HookedCLIP:
    """Hook a live model as it is.

    Raises:
        ModelError: it is of a kind that is not supported, in training mode, or contradicts what is asked for.
    """
    clip = TransformersCLIP(model)
    check_evaluating(model)
    source = str(getattr(model, "name_or_path", "") or "")
    config: Any = model.config
    _agree_activation(config, asked, name or type(model).__name__)
    if asked.image_size is not None:
        raise ModelError("Models of transformers have their image size: leave image_size= out.")
    processor = _processor(source) if source else None
    kind = "clip" if config.model_type.startswith("clip") else "siglip"
    stated = None if processor is None else Normalization(processor.image_mean, processor.image_std)
    if stated is not None:
        agree(stated, asked.mean, asked.std, f"the image processor of {source}")
    elif name is not None and (asked.mean is None or asked.std is None):
        usual = " or ".join(f"mean={each.mean}, std={each.std} ({kind})" for kind, each in _USUAL.items())
        raise ModelError(
            f"{name} has no image processor that says how pixels are normalized: pass mean= and std=, {usual}."
        )
    else:
        usual = _USUAL[kind]
        stated = Normalization(tuple(asked.mean or usual.mean), tuple(asked.std or usual.std))
        if asked.mean is None or asked.std is None:
            log.warning("%s does not say how pixels are normalized; assuming mean=%s, std=%s as %s models have.",
                        type(model).__name__, stated.mean, stated.std, kind)  # fmt: skip
    set_model_preprocess_cfg(clip, _preprocessing(processor, kind, stated, clip.visual.image_size))
    tokenizer = tokenizer or _tokenizer(source, config)
    return HookedCLIP(clip, tokenizer, stated.mean, stated.std, name=name or type(model).__name__)


def from_pretrained(source: str | Path, asked: Asked) -> HookedCLIP:
    """A folder or a repository of the hub.

    Raises:
        ModelError: it cannot be fetched or read, its weights do not fit or are not finite, or it is of another kind.
    """
    import transformers
    from transformers import AutoConfig

    name = str(source)
    config = _fetched(name, lambda **options: AutoConfig.from_pretrained(name, **options))
    kind = KINDS.get(config.model_type)
    if kind is None:
        raise ModelError(
            f"{name} holds a model of type {config.model_type!r}: of transformers, {', '.join(KINDS)} are known. An "
            f"open_clip model there is called hf-hub:{name}."
        )
    made = getattr(transformers, kind)
    safe = {"use_safetensors": True} if any(Path(name).glob("*.safetensors")) else {"weights_only": True}
    model, report = _fetched(
        name,
        lambda **options: made.from_pretrained(name, output_loading_info=True, **safe, **options),
    )
    _check(model, report, name)
    return from_transformers(model.float().eval(), None, asked, Path(name).name if Path(name).is_dir() else name)


def _fetched(name: str, fetch: Callable[..., Any]) -> Any:
    """From a folder or the cache and, failing that, from the hub."""
    try:
        try:
            return fetch(local_files_only=True)
        except OSError:
            if Path(name).is_dir():
                raise
            return fetch()
    except Exception as error:  # of a damaged file any
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(name).is_dir():
            raise ModelError(
                f"{name}: not a readable folder of transformers ({type(error).__name__}: {first})."
            ) from error
        from difflib import get_close_matches

        from ... import zoo

        near = get_close_matches(name, zoo.buildable(), n=3)
        meant = f" If you meant the zoo, there are {near}." if near else ""
        raise ModelError(
            f"{name!r} is no folder, not in the zoo, and cannot be fetched from the hub nor found in its local cache "
            f"({first}) Download it where there is a network and pass the folder.{meant}"
        ) from error


def _check(model: nn.Module, report: dict[str, Any], name: str) -> None:
    missing, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    extra = [key for key in extra if not key.endswith("position_ids")]  # buffers of old releases
    wrong = sorted(str(each) for each in report.get("mismatched_keys", ()))
    if missing or extra or wrong:
        raise ModelError(
            f"{name}: its weights do not fit its configuration: {len(missing)} keys are missing (e.g. "
            f"{missing[:_LISTED]}), {len(extra)} are unknown (e.g. {extra[:_LISTED]}), {len(wrong)} have another shape "
            f"(e.g. {wrong[:_LISTED]})."
        )
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{name}: {key} holds NaN or infinite values.")


def _agree_activation(config: Any, asked: Asked, who: str) -> None:
    vision = getattr(config, "vision_config", config)
    activation("", (f"the configuration of {who}", vision.hidden_act == "quick_gelu"), asked.quick_gelu)


def _processor(source: str) -> Any | None:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, local_files_only=True)
    except Exception:  # none there, or one that cannot be read: what is not known is asked for
        return None


def _preprocessing(processor: Any | None, kind: str, pixels: Normalization, size: int) -> dict[str, Any]:
    """As open_clip writes it."""
    squash = kind == "siglip"
    resample = 3
    if processor is not None:
        squash = not getattr(processor, "do_center_crop", False)
        resample = int(getattr(processor, "resample", None) or 3)
    return {
        "size": size,
        "mean": pixels.mean,
        "std": pixels.std,
        "interpolation": _FILTERS.get(resample, "bicubic"),
        "resize_mode": "squash" if squash else "shortest",
    }


def _tokenizer(source: str, config: Any) -> Callable[[list[str]], Tensor]:
    """The one beside the weights or, for CLIP's own vocabulary, open_clip's."""
    text = getattr(config, "text_config", None)
    if text is None:
        return _no_tokenizer("This model has no text tower: load the whole model for its texts.")
    length = text.max_position_embeddings
    if source:
        from transformers import AutoTokenizer

        try:
            return TransformersTokenizer(AutoTokenizer.from_pretrained(source, local_files_only=True), length)
        except Exception:  # none there, or one that cannot be read
            log.info("%s has no tokenizer that can be read.", source)
    if config.model_type == "clip" and text.vocab_size == 49408:
        return open_clip.tokenizer.SimpleTokenizer(context_length=length)
    return _no_tokenizer("This model came without a tokenizer: pass tokenizer= to load, or encode token ids.")


def _no_tokenizer(message: str) -> Callable[[list[str]], Tensor]:
    def refuse(texts: list[str]) -> Tensor:
        raise ModelError(message)

    return refuse
