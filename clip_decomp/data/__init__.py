"""Data sets behind one interface: the embedded world, parquet files, image folders, the papers' test sets."""

from __future__ import annotations

from pathlib import Path

from ..errors import DataError
from .sets import DataSet, ImageSet

__all__ = ["DataSet", "ImageSet", "open_data", "same_data"]


def same_data(one: str, other: str) -> bool:
    """Whether two descriptions name the same world, file or folder, however they spell it and whichever set they mean.

    What lies within the other's folder counts as the same.

    Example:
        >>> same_data("pets=a/b", "./a/b/"), same_data("world", "world:outlines")
        (True, True)
        >>> same_data("a", "a/b"), same_data("a", "b")
        (True, False)
    """
    places = _place(one), _place(other)
    return any(each == rest or each in rest.parents for each, rest in (places, places[::-1]))


def _place(spec: str) -> Path:
    if not Path(spec).exists():
        spec = spec.partition("=")[2] or spec
        spec = spec if Path(spec).exists() else spec.partition(":")[0]
    return Path(spec).resolve()


def open_data(spec: str, image_size: int, seed: int = 0, test: int | None = None, train: int = 0) -> DataSet:
    """Open a data set by its description.

    Args:
        spec: ``world`` or one of its sets (``world:outlines``), a folder of images with one sub-folder a class, a
            parquet file, a folder of ``SET-train.parquet`` and ``SET-val.parquet`` (``FOLDER:b`` for another set), or
            ``NAME=FOLDER`` for one of the papers' test sets, see :mod:`clip_decomp.data.benchmarks`.
        image_size: pictures are resized and cropped to this.
        seed: of the world's pictures. Of other data without a held-out part the same 20 % are held out each time, so
            that what one command learns from no other measures on.
        test: at most this many test pictures.
        train: how many training pictures of the world to draw; other data have their own.

    Raises:
        DataError: nothing is there, or it cannot be used.
    """
    from .files import open_folder, open_parquet, open_parquet_folder

    if test is not None and test < 1:
        raise DataError(f"Cannot evaluate on {test} images: ask for one or more.")
    if spec.split(":")[0] == "world":
        from .world.draw import IMAGE_SIZE
        from .world.sets import world_set

        if image_size != IMAGE_SIZE:
            raise DataError(f"The world's pictures are {IMAGE_SIZE} pixels wide, but this model takes {image_size}.")
        return world_set(spec, test=test or 2000, train=train, seed=seed)
    name, equals, folder = spec.partition("=")
    if equals and not Path(spec).exists():
        from .benchmarks import has_training, open_benchmark

        place = Path(folder)
        held_out, rest = open_benchmark(name, place, image_size).split(0.2)
        to_learn = open_benchmark(name, place, image_size, "train") if has_training(name, place) else None
        return DataSet(rest.first(test), held_out, to_learn)
    path, _, part = spec.partition(":") if not Path(spec).exists() else (spec, "", "")
    place = Path(path)
    if not place.exists():
        raise DataError(f"{path}: there is no such file or folder, and it is not one of the world's sets.")
    if place.is_dir() and any(place.glob("*-val.parquet")):
        data = open_parquet_folder(place, image_size, part or None)
    else:
        if part:
            raise DataError(f"{path} has no sets, so none called {part!r}: that takes files named SET-val.parquet.")
        whole = open_folder(place, image_size) if place.is_dir() else open_parquet(place, image_size)
        held_out, rest = whole.split(0.2)
        data = DataSet(rest, held_out)
    return DataSet(data.test.first(test), data.held_out, data.train)
