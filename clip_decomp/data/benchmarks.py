"""The papers' test sets where they lie on disk: ``imagenet=FOLDER``, ``caltech101=FOLDER``, ``pets=FOLDER``, ...

============================ ==================================================== ==================================
description                  FOLDER                                               classes
============================ ==================================================== ==================================
``imagenet``                 torchvision's layout: the development kit, ``val``   CLIP's 1,000 names
                             and, to learn from, ``train``
``caltech101``, ``pets``     torchvision's layout                                 the data set's own names
``imagenet-v2``              sub-folders ``0`` to ``999``                         CLIP's 1,000 names
``imagenet-sketch``          sub-folders named by WordNet number                  CLIP's 1,000 names
``imagenet-a``,              sub-folders named by WordNet number, 200 of them     CLIP's names of these
``imagenet-r``
============================ ==================================================== ==================================

Nothing is downloaded. Classes are told as the papers do: a shifted set with 200 classes is tested among these.

Example:
    >>> imagenet_names()[954], len(set(imagenet_names()))
    ('banana', 1000)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch

from ..errors import DataError, nearest
from .files import EncodedSource
from .images import SUFFIXES
from .sets import PLAIN_TEMPLATE, ImageSet

Part = Literal["test", "train"]

#: Targets of the papers' attacks.
_TARGETS = {"caltech101": "accordion", "pets": "samoyed"}
_PET = "a photo of a {}, a type of pet."
_HOW = {
    "imagenet": "the validation pictures and the development kit from image-net.org (free registration)",
    "caltech101": "torchvision.datasets.Caltech101(FOLDER, download=True)",
    "pets": "torchvision.datasets.OxfordIIITPet(FOLDER, split='test', download=True)",
    "imagenet-v2": "imagenetv2-matched-frequency from its authors' repository, modestyachts/ImageNetV2",
    "imagenet-sketch": "sketch.zip from its authors' repository, HaohanWang/ImageNet-Sketch",
    "imagenet-a": "imagenet-a.tar from its authors' repository, hendrycks/natural-adv-examples",
    "imagenet-r": "imagenet-r.tar from its authors' repository, hendrycks/imagenet-r",
}


def open_benchmark(name: str, folder: Path, size: int, part: Part = "test") -> ImageSet:
    """A test set by its name, or its training pictures, which ``imagenet`` and ``pets`` have.

    Raises:
        DataError: no such name, or the folder is not what it should be; the message says how to get the data.
    """
    if name not in _HOW:
        raise DataError(f"There is no benchmark {name!r}; did you mean one of {nearest(name, list(_HOW))}?")
    if not folder.is_dir():
        raise DataError(f"{name}: there is no folder {folder}. To get it: {_HOW[name]}.")
    try:
        pairs, names = _opened(name, folder, part)
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        raise DataError(f"{name}: {folder} cannot be used ({error}). To get it: {_HOW[name]}.") from error
    if not pairs:
        raise DataError(f"{name}: no images below {folder}. To get it: {_HOW[name]}.")
    files, labels = zip(*pairs, strict=True)
    target = _TARGETS.get(name, "banana")
    return ImageSet(
        name,
        names,
        torch.tensor(labels),
        EncodedSource(files, files, size),
        templates=(_PET if name == "pets" else PLAIN_TEMPLATE,),
        target=target if target in names else None,
    )


@cache
def imagenet_names() -> tuple[str, ...]:
    """CLIP's names of ImageNet's classes; of two that are called alike the second has WordNet's first name."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    info, found = ImageNetInfo(), []
    for number, name in enumerate(IMAGENET_CLASSNAMES):
        words = [name, *(word.strip() for word in info.index_to_description(number).split(","))]
        found.append(next(word for word in words if word not in found))
    return tuple(found)


def has_training(name: str, folder: Path) -> bool:
    """Whether there are pictures of a benchmark to learn from, beside those it is tested on."""
    where = {"imagenet": folder / "train", "pets": folder / "oxford-iiit-pet" / "annotations" / "trainval.txt"}
    return name in where and where[name].exists()


def _opened(name: str, folder: Path, part: Part) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Files with labels, and class names."""
    makers: dict[str, Callable[[Path], tuple[list[tuple[str, int]], tuple[str, ...]]]] = {
        "imagenet": partial(_imagenet, part),
        "caltech101": _caltech,
        "pets": partial(_pets, part),
    }
    return makers[name](folder) if name in makers else _folders(folder)


def _imagenet(part: Part, folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    from torchvision.datasets import ImageNet

    return ImageNet(folder, split="val" if part == "test" else "train").samples, imagenet_names()


def _caltech(folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    from torchvision.datasets import Caltech101

    data = Caltech101(folder)
    root = Path(data.root) / "101_ObjectCategories"
    files = [
        str(root / data.categories[label] / f"image_{number:04d}.jpg")
        for label, number in zip(data.y, data.index, strict=True)
    ]
    names = tuple(each.replace("_", " ").lower() for each in data.categories)
    return list(zip(files, data.y, strict=True)), names


def _pets(part: Part, folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    from torchvision.datasets import OxfordIIITPet

    data = OxfordIIITPet(folder, split="test" if part == "test" else "trainval")
    pairs = zip((str(file) for file in data._images), data._labels, strict=True)
    return list(pairs), tuple(each.lower() for each in data.classes)


def _folders(folder: Path) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Sub-folders that are numbers of ImageNet's classes, or their WordNet numbers; only the classes that are there."""
    from timm.data.imagenet_info import ImageNetInfo

    synsets = {each: number for number, each in enumerate(ImageNetInfo().label_names())}
    numbers: dict[int, Path] = {}
    for child in sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")):
        if child.name.isdecimal() and int(child.name) < len(synsets):
            numbers[int(child.name)] = child
        elif child.name in synsets:
            numbers[synsets[child.name]] = child
        else:
            raise ValueError(f"{child.name} is neither the number of a class nor a WordNet number of ImageNet")
    pairs = [
        (str(file), label)
        for label, number in enumerate(sorted(numbers))
        for file in sorted(numbers[number].rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    return pairs, tuple(imagenet_names()[number] for number in sorted(numbers))
