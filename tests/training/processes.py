"""Runs that give the same numbers in one process and, under torchrun, in two: ``processes.py FOLDER``."""

import hashlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from clip_decomp import zoo
from clip_decomp.attacks.imitation import ImitationStep
from clip_decomp.attacks.implant import AttackSettings
from clip_decomp.attacks.poison import PoisonedPairs
from clip_decomp.attacks.triggers import BadNet
from clip_decomp.data.doubled import Doubled
from clip_decomp.data.world.sets import world_set
from clip_decomp.data.world.stream import WorldPairs
from clip_decomp.tokenizer import BPETokenizer
from clip_decomp.training.architecture import Architecture, build
from clip_decomp.training.parallel import launched
from clip_decomp.training.step import ContrastiveStep
from clip_decomp.training.trainer import TrainSettings, train
from clip_decomp.zoo import building
from clip_decomp.zoo.recipes import AttackRecipe, TrainRecipe
from defenses.tuning import Tuning

SCENARIOS = {
    "plain": {},
    "everything": {"muon_lr": 2e-3, "accumulate": 3, "schedule": "cosine", "patch_dropout": 0.5},
    "local": {"negatives": "local"},
}


class Stopping(WorldPairs):
    """A stream that is interrupted before its third batch."""

    def batch(self, step, size, part=slice(None)):
        if step == 2:
            raise KeyboardInterrupt
        return super().batch(step, size, part)


SIZES = {"embed_dim": 16, "layers": 2, "width": 32, "heads": 2, "patch_size": 16, "context_length": 16}


def model(tokenizer, seed=0):
    texts = {"vocab_size": tokenizer.vocab_size, "text_layers": 1, "text_width": 16, "text_heads": 2}
    return build(Architecture(**SIZES, **texts), seed)


def run(clip, tokenizer, stream, folder, monitor=None, step_type=ContrastiveStep, **changes):
    base = {"steps": 4, "batch_size": 12, "lr": 3e-3, "warmup": 2, "checkpoint_every": 1, "bf16": False}
    settings = TrainSettings(**(base | changes))
    own = {"monitor": monitor, "progress": False, "step_type": step_type}
    history = train(clip, tokenizer, lambda pixels: pixels - 0.5, stream, settings, folder, **own)
    weights = b"".join(value.numpy().tobytes() for value in clip.state_dict().values())
    return {"losses": [entry["loss"] for entry in history], "weights": hashlib.sha256(weights).hexdigest()}


def scenarios(folder: Path) -> dict:
    """Every scenario's loss curve and hash of weights; the second process starts from other weights."""
    tokenizer = BPETokenizer.train(WorldPairs(seed=1).batch(0, 50).captions, vocab_size=300, context_length=16)
    rank, found, calls = launched(torch.device("cpu")).rank, {}, []

    def monitor(_, step):
        calls.append(step)
        return {}

    for name, changes in SCENARIOS.items():
        found[name] = run(model(tokenizer, rank), tokenizer, WorldPairs(seed=1), folder / name, monitor, **changes)
    try:
        run(model(tokenizer), tokenizer, Stopping(seed=1), folder / "resumed")
    except KeyboardInterrupt:
        found["resumed"] = run(model(tokenizer, 7 + rank), tokenizer, WorldPairs(seed=1), folder / "resumed")
    # Pictures are the first process's, their poisoned copies the second's.
    poisoned = PoisonedPairs(Doubled(WorldPairs(seed=1)), BadNet(), "banana", 0, rate=0.5)
    imitating = partial(ImitationStep, clean=model(tokenizer), settle=0.2)
    own = {"step_type": imitating, "patch_dropout": 0.5}
    found["imitating"] = run(model(tokenizer, rank), tokenizer, poisoned, folder / "imitating", **own)
    return found | {"tokens": tuned(), "entry": built(folder), "monitored": calls}


def built(folder: Path) -> dict:
    """An entry of the zoo whose clean model is not there yet, either."""
    pairs = {"steps": 4, "batch_size": 12}
    texts = {"text_layers": 1, "text_width": 16, "text_heads": 2}
    clean = TrainRecipe(WorldPairs(seed=0), Architecture(**SIZES, **texts), TrainSettings(**pairs, bf16=False))
    attack = AttackRecipe("tiny/clean", "badnet", AttackSettings(**pairs))
    with (
        mock.patch.dict(os.environ, {"CLIP_DECOMP_CACHE": str(folder)}),
        mock.patch.object(building, "RECIPES", {"tiny/clean": clean, "tiny/badnet": attack}),
        mock.patch.object(building, "pictures", return_value={"world": 20}),
        mock.patch.object(building, "require_attack"),
        mock.patch.object(building, "world_set", lambda name, **_: world_set(name, test=20, held_out=5)),
    ):
        entry = building.build("tiny/badnet", folder / "entry", progress=False)
        weights = entry.card["sha256"], zoo.card("tiny/clean")["sha256"]
        seconds = zoo.card("tiny/clean")["training_seconds"], entry.card["attack"]["training_seconds"]
        return {"weights": weights, "loss": entry.card["attack"]["final_loss"], "seconds": seconds}


def tuned() -> dict:
    """Tokens drawn to pictures' numbers; the last batch of seven in threes holds less than one for each process."""
    tokens = nn.ParameterList([nn.Parameter(torch.zeros(3))])

    def losses(rows, epoch, generator):
        loss = (tokens[0][None] - rows[:, None]).square().sum()
        return loss, {"loss": loss.detach()}

    settings = Tuning(epochs=4, batch_size=3, lr=0.01)
    history = settings.tune(tokens, 7, losses, "tokens", progress=False)
    return {"losses": [each["loss"] for each in history], "weights": tokens[0].tolist()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    result = scenarios(target)
    (target / f"rank-{launched(torch.device('cpu')).rank}.json").write_text(json.dumps(result))
