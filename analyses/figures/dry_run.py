"""What the imagenet scale would take: data, models and hours, from a throughput measured where it is asked for.

Hours follow from passes through ViT-B/32, the papers' tower. A pass is timed on the device with random weights; a step
of training is taken for three forward passes, one of RVPT's for the prompted part of the tower, forward and backward.

Limits: the pictures' decoding is not timed, nor the ResNet that CBPT's tables use, which is taken for the same tower;
ViT-B/16 is taken for four of ViT-B/32. Models without a backdoor are taken to be published ones, not trained.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from clip_decomp.cli.bench.timing import device_name, on_cuda
from clip_decomp.models.loading import load

from .. import fits
from .items import Item
from .setting import PAIRS
from .trainings import IMAGENET, Training, models_of, trainings_of

#: ImageNet's validation pictures, and the pairs and epochs of the papers' poisoned fine-tuning.
_TEST, _POISONED, _EPOCHS = 50_000, 500_000, 5
#: Classes of the sets that defenses are tuned on.
_CLASSES = {"ImageNet": 1000, "Caltech-101": 101, "Oxford Pets": 37}
#: Pictures of the sets that the papers test on.
_SIZES = {
    "ImageNet": _TEST,
    "ImageNet-V2": 10_000,
    "ImageNet-Sketch": 50_889,
    "ImageNet-R": 30_000,
    "ImageNet-A": 7_500,
    "Caltech-101": 8_677,
    "Oxford Pets": 3_669,
}
#: How each of them is opened, see ``clip_decomp.data``.
_SPECS = {
    "ImageNet": "imagenet=FOLDER",
    "Caltech-101": "caltech101=FOLDER",
    "Oxford Pets": "pets=FOLDER",
    "ImageNet-V2": "imagenet-v2=FOLDER",
    "ImageNet-Sketch": "imagenet-sketch=FOLDER",
    "ImageNet-R": "imagenet-r=FOLDER",
    "ImageNet-A": "imagenet-a=FOLDER",
}
#: Pictures a timing takes, and how often.
_BATCH, _ROUNDS, _SIDE = {"cpu": 4, "cuda": 64}, 5, 224
#: Passes of a rival over one picture, by the paper's settings: superimposed pictures, brightness, corruptions.
_RIVALS = 64 + 5 + 60


#: Families of towers with more patches, and how many times as many.
_PATCHES = {"patch-16": 4.0}
#: Steps of the noise that adversarial prompt tuning learns from, made once a picture.
_PGD_STEPS = 10
#: Items of a few pictures, or of none.
_FEW = ("closer-look-f5", "closer-look-f7", "rvpt-f7", "rvpt-f10")


@dataclass(frozen=True)
class Cost:
    """Passes through the tower that an item or a training takes."""

    what: str
    passes: float


def estimate(items: Sequence[Item], data: str | None, device: str) -> Iterator[str]:
    """Lines of the plan."""
    rate = throughput(device)
    name = device_name(device) if on_cuda(device) else f"{device}, {torch.get_num_threads()} threads"
    yield f"ViT-B/32, measured here ({name}): {rate:.1f} pictures a second, forward."
    yield "Data:"
    for which in _sets(items):
        given = f"--data {_SPECS[which]}" if which == "ImageNet" else f"--other '{which}={_SPECS[which]}'"
        yield f"  {which}: {_SPECS[which]}, {_SIZES[which]:,} pictures ({given})"
    if data is not None:
        yield f"  --data {data}: {'there' if Path(data.partition('=')[2] or data).exists() else 'not there'}"
    yield f"  {_POISONED:,} pairs of CC3M for each attack: --pairs FILE.csv or shards of a WebDataset"
    yield f"  the same for what is fine-tuned: --other {PAIRS}=FILE.csv"
    yield f"Models without a backdoor, published ones: {', '.join(_plain(items))} in --models"
    costs = [_attack(each) for each in _models(items)] + [_training(each) for each in _trainings(items)]
    costs += [Cost(f"drawing {item.name}", _drawing(item)) for item in items]
    yield f"Hours at that rate, {sum(each.passes for each in costs) / rate / 3600:,.1f} in all:"
    for each in costs:
        yield f"  {each.passes / rate / 3600:8.2f} h  {each.what}"


def throughput(device: str) -> float:
    """Pictures a second that ViT-B/32 takes in, the median of some rounds."""
    model = load("ViT-B-32", device=device)
    count = _BATCH["cuda" if on_cuda(device) else "cpu"]
    images, taken = torch.zeros(count, 3, _SIDE, _SIDE, device=device), []
    with torch.no_grad():
        for _ in range(_ROUNDS + 1):
            start = time.perf_counter()
            model.encode_image(images).sum().item()  # .item() waits for the device
            taken.append(time.perf_counter() - start)
    return count / sorted(taken[1:])[_ROUNDS // 2]


def _models(items: Sequence[Item]) -> list[str]:
    """Attacked models; those that are not are published ones."""
    every = dict.fromkeys(model for item in items for model in models_of(item))
    return [model for model in every if not model.endswith("clean")]


def _plain(items: Sequence[Item]) -> list[str]:
    """What attacks start from, tower by tower, and what figures show beside them."""
    towers = (model.partition("/")[0] for model in _models(items) if "/" in model)
    bases = [f"{tower}/clean" for tower in towers if tower not in _SIZES]
    shown = [model for item in items for model in item.models if model.endswith("clean")]
    return list(dict.fromkeys(["clean", *bases, *shown]))


def _trainings(items: Sequence[Item]) -> list[Training]:
    return list(dict.fromkeys(each.at(IMAGENET) for item in items for each in trainings_of(item)))


def _sets(items: Sequence[Item]) -> list[str]:
    names = {name for each in _trainings(items) for name in (*each.tests, each.tuned_on)} | {"ImageNet"}
    names |= {model.partition("/")[0] for model in _models(items)}
    return [name for name in _SIZES if name in names]


def _larger(attack: str) -> float:
    """Passes through the papers' tower that one through an attack's takes."""
    return _PATCHES.get(attack.partition("/")[0], 1.0)


def _attack(attack: str) -> Cost:
    passes = 3 * _EPOCHS * _POISONED * _larger(attack)
    return Cost(f"model {attack}: poisoned fine-tuning, {_EPOCHS} epochs", passes)


def _training(each: Training) -> Cost:
    """Tuning and testing, on clean and on triggered pictures."""
    made = fits.Fit("", "", each.defense, dict(each.settings), each.seed, "", ("",)).made()
    tested = 2 * sum(_SIZES[name] for name in each.tests)
    if isinstance(made, fits.FineTune):
        views = 2 if each.defense == "cleanclip" else 1  # a picture and its augmented twin
        return Cost(each.label, (3 * views * made.pairs * made.epochs + tested) * _larger(each.attack))
    pictures = (made.shots or 100) * _CLASSES[each.tuned_on]
    inner = made.inversion.steps * 3 if isinstance(made, fits.CBPT) else 1
    once = 1 + (3 * _PGD_STEPS if each.defense == "advpt" else 0)
    steps = {"rvpt": 2.25, "vpt": 2.25, "cbpt": inner, "linear-probe": 0.0, "advpt": 0.0}[each.defense]
    return Cost(each.label, (pictures * (once + steps * made.epochs) + tested) * _larger(each.attack))


def _drawing(item: Item) -> float:
    """What is measured without training, on all attacks: clean and triggered pictures, more for detectors' rivals."""
    if item.name in _FEW:
        return 0.0
    per_picture = 2 * _RIVALS if item.name == "closer-look-t2" else 4
    return per_picture * _TEST * len(item.attacks) if not item.trainings else 0.0
