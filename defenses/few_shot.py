"""A few labelled pictures of every class, chosen by a seed.

Example:
    >>> few_shot(torch.tensor([0, 1, 0, 1, 1]), ["apple", "pear"], shots=2).shape
    torch.Size([4])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clip_decomp.data import open_data, same_data
from clip_decomp.data.sets import PLAIN_TEMPLATE, ImageSet
from clip_decomp.errors import DataError, SettingError
from clip_decomp.model import HookedCLIP
from clip_decomp.models.fingerprint import fingerprint

from .tuning import digest


def training_pictures(
    spec: str,
    side: int,
    seed: int = 0,
    shots: int | None = None,
    template: str | None = None,
    measured: str | None = None,
) -> ImageSet:
    """The pictures of some data that a defense may learn from; of the world, enough for every class.

    Where data have no training part, as a folder of pictures has none, these are the held-out ones, or all where
    nothing is measured on them.

    Args:
        side: of the pictures that the world draws.
        template: of all prompts, instead of the data's own.
        measured: the data that results are measured on, these by default.
    """
    data = open_data(spec, side, seed, train=max(4000, 40 * (shots or 0)))
    train = data.to_learn_from(measured is None or same_data(spec, measured))
    return train if template is None else replace(train, templates=(template,))


def in_order(data: ImageSet, class_names: Sequence[str]) -> ImageSet:
    """The same pictures with classes in the order of others' names, where these are the same ones.

    Raises:
        DataError: other classes.
    """
    if set(data.class_names) != set(class_names):
        other = sorted(set(data.class_names) ^ set(class_names))
        raise DataError(f"{data.name} has other classes than are told apart, such as {', '.join(other[:5])}.")
    places = torch.tensor([list(class_names).index(name) for name in data.class_names])
    return replace(data, labels=places[data.labels], class_names=tuple(class_names))


@dataclass(frozen=True)
class FewShots:
    """Chosen pictures, normalized for a model.

    Attributes:
        labels: index into ``class_names``.
        class_names: classes that are not left out.
        places: where the pictures were among all.
    """

    images: Float[Tensor, "image 3 row column"]
    labels: Int[Tensor, " image"]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    places: Int[Tensor, " image"]

    @classmethod
    def of(
        cls,
        model: HookedCLIP,
        images: ImageSet | Float[Tensor, "image 3 row column"],
        labels: Int[Tensor, " image"] | None,
        class_names: Sequence[str] | None,
        shots: int | None,
        seed: int = 0,
        templates: Sequence[str] = (PLAIN_TEMPLATE,),
        without: Sequence[str] = (),
    ) -> FewShots:
        """Choose from a data set, which brings names and templates, or from normalized pictures with labels and names.

        Raises:
            SettingError: pictures without labels, or what :func:`few_shot` complains about.
            DataError: a chosen picture cannot be read, or what :func:`few_shot` complains about.
        """
        if isinstance(images, ImageSet):
            labels, class_names, templates = images.own_labels, images.class_names, images.templates
        elif labels is None or class_names is None or len(labels) != len(images):
            raise SettingError("Pictures in a tensor need as many labels, and class names.")
        places = few_shot(labels.cpu(), class_names, shots, seed, without)
        chosen, truths = images[places] if isinstance(images, Tensor) else _read(model, images, places), labels[places]
        kept = [name for name in class_names if name not in without]
        numbers = torch.tensor([kept.index(name) if name in kept else -1 for name in class_names])
        return cls(chosen, numbers[truths.cpu()], tuple(kept), tuple(templates), places)

    def identity(self, model: HookedCLIP) -> dict[str, Any]:
        """What tells runs on other pictures, labels or texts from one on these, as JSON."""
        texts = {"class_names": self.class_names, "templates": self.templates, "texts": fingerprint(model, "text")}
        return {**texts, "pictures": digest(self.images, self.labels)}


def _read(model: HookedCLIP, data: ImageSet, places: Int[Tensor, " image"]) -> Float[Tensor, "image 3 row column"]:
    chosen = replace(data.subset(places), skipped=[])  # what others could not read is told again
    stored, _ = chosen.load()
    if len(stored) < len(places):
        raise DataError(f"{data.name}: chosen pictures cannot be read: {'; '.join(chosen.skipped[:3])}.")
    return model.normalize(stored.float() / 255)


def check_shots(shots: int | None) -> None:
    """Refuse a number of shots below 1, with a SettingError."""
    if shots is not None and shots < 1:
        raise SettingError(f"The number of shots must be 1 or more a class, not {shots}.")


def few_shot(
    labels: Int[Tensor, " image"],
    class_names: Sequence[str],
    shots: int | None,
    seed: int = 0,
    without: Sequence[str] = (),
) -> Int[Tensor, " chosen"]:
    """Places of ``shots`` pictures of every class, or of all pictures (None), ascending.

    Args:
        without: classes of which no picture is taken.

    Raises:
        SettingError: shots below 1, or an unknown class to leave out.
        DataError: labels out of range, or a class with fewer pictures than shots.
    """
    check_shots(shots)
    unknown = [name for name in without if name not in class_names]
    if unknown:
        raise SettingError(f"Classes to leave out must be among the data's: {unknown} are not.")
    if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise DataError(
            f"Labels must be in 0..{len(class_names) - 1} for {len(class_names)} classes, and are "
            + (f"in {int(labels.min())}..{int(labels.max())}." if len(labels) else "none at all.")
        )
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label, name in enumerate(class_names):
        places = (labels == label).nonzero()[:, 0]
        order = torch.randperm(
            len(places), generator=generator
        )  # drawn for every class: leaving one out moves no other
        if name in without:
            continue
        if len(places) < (shots or 1):
            raise DataError(f"Class {name!r} has {len(places)} pictures, and {shots or 1} are asked for.")
        chosen.append(places[order[:shots]])
    if len(chosen) < 2:
        raise DataError("Fewer than two classes are left to tell apart.")
    return torch.cat(chosen).sort().values
