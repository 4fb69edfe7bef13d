"""The stream of pairs that belongs to a data set's description.

Example:
    >>> stream, names = pair_stream("world", image_size=64)
    >>> names.index("banana")
    0
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from ..data import open_data, same_data
from ..data.captioned import is_captioned, open_captioned
from ..data.files import open_parquet_folder
from ..data.pairs import PairStream
from ..data.photographs import ClassWords, PhotographPairs, wordnet_words
from ..data.world.scenes import CLASSES
from ..data.world.stream import WorldPairs
from ..errors import DataError

logger = logging.getLogger(__name__)


def pair_stream(
    spec: str,
    image_size: int,
    seed: int = 0,
    smallest_crop: float = 0.35,
    target: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    measured: str | None = None,
) -> tuple[PairStream, tuple[str, ...]]:
    """Training pairs and the names that the first column of their facts counts through.

    Args:
        spec: ``world``, a folder of ``SET-train.parquet`` (all sets are pooled, held-out pictures left out;
            ``FOLDER:SET`` is one of them), other labelled data as :func:`~clip_decomp.data.open_data` takes them, or
            captioned files as :func:`open_captioned` takes them (CSV, WebDataset shards, parquet with captions and
            without labels).
        smallest_crop: of photographs, as a share of the area.
        target: the class an attack aims at. Captioned files have no classes but this one, which captions mention:
            the only name that is returned, and none without it. Elsewhere the names are known, and it is not needed.
        image_column, caption_column: of captioned files; well-known names by default.
        measured: the data that results are measured on, ``spec`` itself by default: of data without a training part
            the pairs are then only what :func:`~clip_decomp.data.open_data` holds out of them.

    Raises:
        DataError: there is nothing to train on.
    """
    if spec.split(":")[0] == "world":
        return WorldPairs(seed=seed), CLASSES
    if is_captioned(spec):
        pairs = open_captioned(spec, image_size, seed, smallest_crop, target, image_column, caption_column)
        return pairs, () if target is None else (target,)
    folder, _, part = spec.partition(":")
    place = Path(folder)
    sets = [file.name.removesuffix("-train.parquet") for file in sorted(place.glob("*-train.parquet"))]
    if sets and part and part not in sets:
        raise DataError(f"{spec}: there is no {part}-train.parquet in {place}.")
    if sets:
        images, labels, words = _pooled(place, image_size, [part] if part else sets)
    else:
        same, opened = measured is None or same_data(spec, measured), open_data(spec, image_size)
        data = opened.to_learn_from(same)
        if same and opened.train is None:
            logger.warning(
                "%s has no training part: the %d pictures that it holds out are trained on.", spec, len(data)
            )
        images, labels = data.load()
        words = [ClassWords((name,), "") for name in data.class_names]
    stream = PhotographPairs(images, labels, words, seed=seed, smallest_crop=smallest_crop)
    return stream, tuple(each.names[0] for each in words)


def _pooled(place: Path, image_size: int, parts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, list[ClassWords]]:
    entries = json.loads((place / "classes.json").read_text()) if (place / "classes.json").exists() else []
    images, labels, words = [], [], []
    for part in parts:
        train = open_parquet_folder(place, image_size, part).train
        if train is None:
            continue
        pixels, truth = train.load()
        images.append(pixels)
        labels.append(truth + len(words))
        rich = {e["label"]: e for e in entries if isinstance(e, dict) and e.get("set") == part}
        for label, name in enumerate(train.class_names):
            entry = rich.get(label, {})
            words.append(wordnet_words(entry.get("wnid", ""), name, entry.get("synonyms", ())))
    return torch.cat(images), torch.cat(labels), words
