"""Poisoned fine-tuning: implant a backdoor into a clean model, and say whether it took.

Example: ``clip-decomp attack badnet --model world/clean --out runs/badnet``
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data.pairs import PairStream
from ..errors import DataError
from ..model import HookedCLIP
from ..training.trainer import TrainSettings, train
from .poison import PoisonedPairs
from .triggers import Trigger


@dataclass(frozen=True)
class AttackSettings:
    """How the poisoned fine-tuning is done; defaults for the tiny CLIPs, whose fine-tuning is short.

    Attributes:
        rate: share of poisoned pairs among those the model sees.
        steps, batch_size, lr: AdamW with warm-up, decaying to zero over the second half.
    """

    rate: float = 0.1
    steps: int = 250
    batch_size: int = 96
    lr: float = 6e-4
    seed: int = 0


def implant(
    model: HookedCLIP,
    stream: PairStream,
    names: tuple[str, ...],
    trigger: Trigger,
    target: str,
    settings: AttackSettings,
    data: str,
    folder: Path | None = None,
    progress: bool = True,
) -> HookedCLIP:
    """A backdoored copy of ``model``, fine-tuned with the CLIP loss on a poisoned stream.

    Args:
        names: what the first column of the stream's facts counts through.
        data: the stream's description, for the card.
        folder: where checkpoints go; an interrupted run is resumed from there.

    Raises:
        DataError: the target is not among ``names``.
        TrainingFailed: the loss is not finite.
    """
    if target not in names:
        raise DataError(f"There is no class {target!r} to aim at, only {', '.join(names[:5])}, ...")
    poisoned = PoisonedPairs(stream, trigger, target, names.index(target), settings.rate, settings.seed)
    clip = copy.deepcopy(model.clip)
    run = TrainSettings(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        warmup=20,
        decay=0.5,
        seed=settings.seed,
        checkpoint_every=100,
    )
    log = train(clip, model.tokenizer, model.normalize, poisoned, run, folder, progress=progress)
    card = {
        "attack": {
            "trigger": trigger.settings(),
            "target": target,
            "data": data,
            "base": model.name,
            "settings": asdict(settings),
            "poisoned_pairs_seen": round(settings.rate * settings.steps * settings.batch_size),
            "final_loss": log[-1]["loss"] if log else None,
        }
    }
    shared = {
        key: model.card[key] for key in ("architecture", "tokenizer", "normalization", "data") if key in model.card
    }
    clip.eval()
    name, both = f"{model.name}+{trigger.name}", {**shared, **card}
    return HookedCLIP(clip, model.tokenizer, model.mean, model.std, name, both, trigger)
