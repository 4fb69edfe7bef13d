"""One way to open a picture: RGB, upright, 8 bit, square, whatever the file holds.

EXIF rotation is applied, the first frame of an animation is taken, 16-bit and floating-point gray is scaled,
transparency is laid over white, CMYK and palettes are converted. Anything that cannot be read is a
:class:`~clip_decomp.errors.DataError` that names the picture.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import DataError

#: Pictures with more pixels than this are refused (a decompression bomb, or not what a CLIP wants).
MAX_PIXELS = 100_000_000
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


class TooManyPixels(DataError):
    """A picture that is too large to be decoded."""


def open_image(
    source: str | Path | bytes,
    name: str | None = None,
    max_pixels: int | None = None,
    formats: Sequence[str] | None = None,
) -> Image.Image:
    """Open a file or encoded bytes as an upright RGB image.

    Args:
        name: what to call the picture in errors; the path by default.
        max_pixels: pictures with more are refused before they are decoded; ``MAX_PIXELS`` by default.
        formats: the ones that are tried, as Pillow calls them; all by default.

    Raises:
        TooManyPixels: the picture is too large.
        DataError: the source is empty, truncated or not an image.
    """
    most = MAX_PIXELS if max_pixels is None else max_pixels
    label = name or (str(source) if not isinstance(source, bytes) else "image bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # broken metadata; the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                if image.width * image.height > most:
                    size = f"{image.width} x {image.height}"
                    raise TooManyPixels(f"{label}: {size} is too large (over {most} pixels).")
                image.seek(0)
                image.load()
                return to_rgb(image)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooManyPixels(f"{label}: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise DataError(f"{label}: not a readable image ({what_failed(error)}).") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright 8-bit RGB, as described in the module."""
    image = ImageOps.exif_transpose(image)
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        with np.errstate(invalid="ignore"):
            values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        gray = (values / _white(image.mode, values) * 255).clip(0, 255).round()
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _white(mode: str, values: np.ndarray) -> float:
    """The value of white: 16-bit files say it, wider ones are taken for the narrowest range that holds them."""
    top = values.max(initial=0)
    if mode.startswith("I;16") or top > 255:
        return 65535.0
    return 1.0 if mode == "F" and top <= 1 else 255.0


def to_pixels(
    image: Image.Image,
    size: int,
    squash: bool = False,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> UInt8[Tensor, "3 row column"]:
    """Resize the shorter side to ``size`` and crop the middle, as CLIP's preprocessing does.

    Args:
        squash: resize both sides instead and crop nothing, as SigLIP's does.
        resample: CLIP's filter by default.
    """
    width, height = image.size
    if squash and (width, height) != (size, size):
        image = image.resize((size, size), resample)
    elif (width, height) != (size, size):
        short = min(width, height)
        if max(width, height) > 8 * short:  # of a very long strip only the middle is resized: it could fill the memory
            left, top = max(0, width // 2 - 4 * short), max(0, height // 2 - 4 * short)
            image = image.crop((left, top, min(width, left + 8 * short), min(height, top + 8 * short)))
        # Rounded as torchvision does.
        image = image.resize(tuple(int(size * side / short) for side in image.size), resample)
        left, top = round((image.width - size) / 2), round((image.height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_pil(pixels: UInt8[Tensor, "3 row column"]) -> Image.Image:
    """The inverse of :func:`to_pixels` for a picture of the right size."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def what_failed(error: Exception) -> str:
    """An error in words, without the addresses of objects: the same failure always reads the same.

    Example:
        >>> what_failed(OSError("cannot identify image file <_io.BytesIO object at 0x7f4f>"))
        'OSError: cannot identify image file'
    """
    return f"{type(error).__name__}: {re.sub(r' ?<[^<>]* object at 0x[^<>]*>', '', str(error))}"
