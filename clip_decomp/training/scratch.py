"""Train a tiny CLIP from scratch on a stream of pairs, with a tokenizer of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import open_clip
from open_clip.model import CLIP

from ..data.pairs import PairStream
from ..model import HookedCLIP
from ..tokenizer import BPETokenizer
from .architecture import Architecture, build
from .trainer import TrainSettings, train


def train_from_scratch(
    stream: PairStream,
    architecture: Architecture,
    settings: TrainSettings,
    data: str,
    mean: Sequence[float] = open_clip.OPENAI_DATASET_MEAN,
    std: Sequence[float] = open_clip.OPENAI_DATASET_STD,
    folder: Path | None = None,
    monitor: Callable[[HookedCLIP], dict[str, float]] | None = None,
    progress: bool = True,
    device: str = "cpu",
    workers: int = 0,
) -> HookedCLIP:
    """A CLIP trained on ``stream``; a run found in ``folder`` is resumed.

    Args:
        architecture: its ``vocab_size`` is an upper bound for the tokenizer that is trained on the stream's corpus.
        data: the stream's name, for the card.
        mean, std: pixel normalization.
        monitor: measured and logged at every checkpoint.
        workers: processes that draw batches ahead.
    """
    tokenizer = BPETokenizer.train(stream.corpus(), architecture.vocab_size, architecture.context_length)
    architecture = replace(architecture, vocab_size=tokenizer.vocab_size)
    clip = build(architecture, settings.seed).to(device)
    card = {
        "architecture": architecture.to_dict(),
        "tokenizer": json.loads(tokenizer.to_json()),
        "normalization": {"mean": list(mean), "std": list(std)},
        "data": data,
        "recipe": {"kind": "train", "settings": asdict(settings)},
    }
    model = HookedCLIP(clip, tokenizer, mean, std, name=data, card=card)

    def watch(_: CLIP, step: int) -> dict[str, float]:
        return monitor(model) if monitor is not None else {}

    log = train(clip, tokenizer, model.normalize, stream, settings, folder, watch, progress, workers=workers)
    model.card["training_seconds"] = log[-1]["seconds"]
    clip.eval()
    return model
