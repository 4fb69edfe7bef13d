"""The two small networks of ISSBA: one hides bits in a picture, one reads them again.

StegaStamp (Tancik et al. 2020) uses a U-Net and adversarial and perceptual losses to keep the message invisible. Here
pictures are folded by 4 (16 x 16 places of 48 values at 64 pixels), a few convolutions at that grain are enough, and
the residual's energy is fixed by construction: it is divided by its root mean square, so no loss has to be balanced
against the message's.

Normalization is by groups within a picture: what happens to a picture never depends on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ....errors import ModelError

FOLD, _GROUPS, _PLANES, _READ = 4, 4, 8, 24
#: Sizes are multiples of this: pictures are folded, then halved once.
GRAIN = 2 * FOLD


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1), nn.GroupNorm(_GROUPS, width), nn.GELU())


class Encoder(nn.Module):
    """Bits and a picture in, a residual for that picture out."""

    def __init__(self, bits: int, size: int, width: int) -> None:
        super().__init__()
        self.grid = size // GRAIN
        self.message = nn.Linear(bits, _PLANES * self.grid**2)
        self.first = _block(3 * FOLD**2 + _PLANES, width)
        self.blocks = nn.ModuleList(_block(width + _PLANES, width) for _ in range(2))
        self.last = nn.Conv2d(width + _PLANES, 3 * FOLD**2, 3, 1, 1)

    def forward(
        self, images: Float[Tensor, "batch 3 size size"], bits: Float[Tensor, "batch bit"]
    ) -> Float[Tensor, "batch 3 size size"]:
        """A residual of any scale."""
        planes = self.message(bits * 2 - 1).view(-1, _PLANES, self.grid, self.grid)
        planes = F.interpolate(planes, scale_factor=2)
        hidden = self.first(torch.cat([F.pixel_unshuffle(images * 2 - 1, FOLD), planes], dim=1))
        for block in self.blocks:
            hidden = hidden + block(torch.cat([hidden, planes], dim=1))
        return F.pixel_shuffle(self.last(torch.cat([hidden, planes], dim=1)), FOLD)


class Decoder(nn.Module):
    """A picture in, the logits of its bits out."""

    def __init__(self, bits: int, size: int, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _block(3 * FOLD**2, width),
            _block(width, width),
            _block(width, width),
            _block(width, width, stride=2),
            nn.Conv2d(width, _READ, 3, 1, 1),
        )
        self.last = nn.Linear(_READ * (size // GRAIN) ** 2, bits)

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch bit"]:
        """Positive where a bit is set."""
        # To the decoder the picture itself is noise, and most of that noise is smooth.
        smooth = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
        return self.last(self.convolutions(F.pixel_unshuffle(4 * (images - smooth), FOLD)).flatten(1))


class Steganographer(nn.Module):
    """Encoder and decoder for pictures of any size.

    Attributes:
        size: pixels along the square that both work on; pictures are resized to it, residuals from it.
    """

    def __init__(self, bits: int, size: int, width: int, seed: int) -> None:
        super().__init__()
        self.size = size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = Encoder(bits, size, width), Decoder(bits, size, width)

    def residual(
        self, images: Float[Tensor, "batch 3 row column"], bits: Float[Tensor, "batch bit"]
    ) -> Float[Tensor, "batch 3 row column"]:
        """What is added to each picture, with a root mean square of 1."""
        found = resized(self.encoder(self._square(images), bits).float(), images.shape[-2], images.shape[-1])
        return found / found.square().mean((1, 2, 3), keepdim=True).add(1e-12).sqrt()

    def read(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch bit"]:
        """Logits of the bits hidden in each picture."""
        return self.decoder(self._square(images))

    def stored(self) -> dict[str, Tensor]:
        """Its weights in float16."""
        return {key: value.detach().cpu().half() for key, value in self.state_dict().items()}

    def take(self, tensors: Mapping[str, Tensor]) -> Steganographer:
        """Itself with the weights that :meth:`stored` returned, frozen.

        Raises:
            ModelError: a tensor is missing, extra or misshapen, or holds NaN or infinite values.
        """
        own = self.state_dict()
        if own.keys() != tensors.keys():
            raise ModelError(f"Not ISSBA's tensors: {sorted(own.keys() ^ tensors.keys())[:3]} are missing or unknown.")
        for key, value in tensors.items():
            if value.shape != own[key].shape:
                raise ModelError(
                    f"ISSBA's {key} has shape {list(value.shape)}, but its settings need {list(own[key].shape)}: they "
                    "differ from those it was trained with."
                )
            if not torch.isfinite(value).all():
                raise ModelError(f"ISSBA's {key} holds NaN or infinite values: train it again.")
        self.load_state_dict(dict(tensors))
        return self.requires_grad_(False)

    def _square(self, images: Tensor) -> Tensor:
        return resized(images.float(), self.size, self.size)


def resized(
    images: Float[Tensor, "batch 3 row column"], height: int, width: int
) -> Float[Tensor, "batch 3 row column"]:
    """Bilinear, antialiased where it shrinks; the same tensor where the size is right already."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
