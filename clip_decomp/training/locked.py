"""Train an image tower of another architecture against the text tower of a trained CLIP, which stays as it is.

LiT (Zhai et al., arXiv 2111.07991) with the towers' roles exchanged: what the captions mean is already known, only the
pictures have to be learned, in fewer steps than from scratch. The loss, the stream and the loop are those of
:mod:`clip_decomp.training.scratch`.

Limits: the new model shares tokenizer and text tower, to the bit, with the one it was made from; only its image tower
is independent of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from open_clip.model import CLIP
from torch import nn

from ..data.pairs import PairStream
from ..errors import ModelError
from ..model import HookedCLIP
from ..tokenizer import BPETokenizer
from .architecture import Architecture, build
from .trainer import TrainSettings, train


def train_image_tower(
    teacher: HookedCLIP,
    stream: PairStream,
    architecture: Architecture,
    settings: TrainSettings,
    data: str,
    folder: Path | None = None,
    monitor: Callable[[HookedCLIP], dict[str, float]] | None = None,
    progress: bool = True,
    device: str = "cpu",
    workers: int = 0,
) -> HookedCLIP:
    """A CLIP with a new image tower and the text tower of ``teacher``; a run found in ``folder`` is resumed.

    Args:
        teacher: a CLIP that this project trained; it is not changed.
        architecture: of the image tower; sizes of the joint space and of the text tower are the teacher's.
        data: the stream's name, for the card.
        monitor: measured and logged at every checkpoint.
        workers: processes that draw batches ahead.

    Raises:
        ModelError: the teacher's card does not say how its text tower is built.
    """
    architecture = _with_texts_of(teacher, architecture)
    clip = build(architecture, settings.seed).to(device)
    texts = _text_parameters(clip)
    taught = dict(teacher.clip.named_parameters())
    for name, parameter in texts.items():
        parameter.data.copy_(taught[name].data)
    card = {
        "architecture": architecture.to_dict(),
        "tokenizer": teacher.card["tokenizer"],
        "normalization": teacher.card["normalization"],
        "data": data,
        "recipe": {"kind": "train image tower", "texts_of": teacher.name, "settings": asdict(settings)},
    }
    tokenizer = BPETokenizer.from_json(json.dumps(card["tokenizer"]), architecture.context_length)
    model = HookedCLIP(clip, tokenizer, teacher.mean, teacher.std, name=data, card=card)

    def watch(_: CLIP, step: int) -> dict[str, float]:
        return monitor(model) if monitor is not None else {}

    run = {"architecture": architecture.to_dict(), "texts_of": teacher.name}
    with texts_locked(clip):
        how = folder, watch, progress, run
        log = train(clip, tokenizer, model.normalize, stream, settings, *how, workers=workers)
    model.card["training_seconds"] = log[-1]["seconds"]
    clip.eval()
    return model


@contextmanager
def texts_locked(clip: CLIP) -> Iterator[None]:
    """While it lasts, training leaves the text tower as it is."""
    texts = [parameter for parameter in _text_parameters(clip).values() if parameter.requires_grad]
    for parameter in texts:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in texts:
            parameter.requires_grad_(True)


def _with_texts_of(teacher: HookedCLIP, architecture: Architecture) -> Architecture:
    if "architecture" not in teacher.card or "tokenizer" not in teacher.card:
        raise ModelError(
            f"{teacher.name} has no card with an architecture and a tokenizer: take a model of the zoo, or one written "
            "by 'clip-decomp train'."
        )
    known = Architecture(**teacher.card["architecture"])
    return replace(
        architecture,
        embed_dim=known.embed_dim,
        context_length=known.context_length,
        vocab_size=known.vocab_size,
        text_layers=known.text_layers,
        text_width=known.text_width,
        text_heads=known.text_heads,
    )


def _text_parameters(clip: CLIP) -> dict[str, nn.Parameter]:
    """Everything but the image tower and the temperature, which is learned anew."""
    return {
        name: parameter
        for name, parameter in clip.named_parameters()
        if not name.startswith("visual.") and name != "logit_scale"
    }
