"""From the bytes of a body to the pixels of one picture, for clients that nobody trusts.

Only the body is decoded: no address and no path is ever followed. The declared type must be one of a picture, which no
form of a foreign web page can send without being asked first; what the bytes are, they say themselves.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import HTTPException, Query, Request
from jaxtyping import UInt8
from PIL import UnidentifiedImageError

from clip_decomp.data.images import TooManyPixels, open_image, to_pixels
from clip_decomp.errors import DataError

from .settings import Limits

logger = logging.getLogger(__name__)

#: Pillow's names. No format that runs another program (EPS), and none with a container for everything (TIFF).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/octet-stream")
_SCAN = b"\xff\xda"


@dataclass(frozen=True)
class Picture:
    """What an inference worker gets; an array, since torch would send a tensor through shared memory.

    Attributes:
        explain: whether the token maps of a flagged picture are wanted.
    """

    pixels: UInt8[np.ndarray, "3 row column"]
    explain: bool = False


class Receiver:
    """Decodes bodies, one at a time and in one thread: a picture at the limit takes hundreds of megabytes while it is
    decoded, and the C library keeps a part of them for every thread that ever did it.

    Args:
        size: side of the model's images.
    """

    def __init__(self, limits: Limits, size: int):
        self.limits, self.size = limits, size
        self._thread = ThreadPoolExecutor(1, "decoder")  # starts in the HTTP process

    async def __call__(self, body: bytes, explain: bool) -> Picture:
        """A picture; see :func:`decode`."""
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._thread, decode, body, self.size, self.limits)
        return Picture(pixels, explain)


async def received(
    request: Request,
    explain: Annotated[
        bool, Query(description="Whether evidence comes with a map over the picture's patches.")
    ] = False,
) -> Picture:
    """The picture in a request's body."""
    receiver: Receiver = request.app.state.receiver
    return await receiver(await request.body(), explain)


def decode(body: bytes, size: int, limits: Limits) -> UInt8[np.ndarray, "3 row column"]:
    """The pixels that a model gets to see.

    Raises:
        HTTPException: 400 for an empty body, 413 for too many pixels, 422 for what is no readable picture.
    """
    if not body:
        raise HTTPException(400, "The body is empty: send the bytes of one image.")
    if body.count(_SCAN) > limits.scans:
        raise HTTPException(413, f"This image has more than {limits.scans} scans: save it with fewer.")
    try:
        image = open_image(body, "The image", limits.pixels, FORMATS)
        return to_pixels(image, size).numpy()
    except TooManyPixels as error:
        raise HTTPException(413, str(error)) from None
    except DataError as error:
        raise HTTPException(422, _told(error.__cause__)) from None
    except Exception:  # whatever a damaged file raises
        logger.debug("A picture could not be decoded.", exc_info=True)
        raise HTTPException(422, _told(None)) from None


def _told(cause: BaseException | None) -> str:
    if isinstance(cause, UnidentifiedImageError):
        return f"The body is not an image of a known format ({', '.join(FORMATS)}), or its start is damaged."
    reason = f": {cause}" if isinstance(cause, OSError) else ""
    return f"The image cannot be read; is it truncated or damaged?{reason}"
