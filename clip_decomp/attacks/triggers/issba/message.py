"""Messages as bits that survive some errors.

StegaStamp codes seven characters (56 bits) with 40 bits of a BCH code that corrects any 5 wrong bits. We spend the same
40 bits on a Reed-Solomon code over bytes (``reedsolo``, pure Python): it corrects any ``parity // 2`` wrong bytes of
the word, however many bits of them are wrong, and says so when there are more.

Example:
    >>> code = MessageCode(bits=96, parity=5)
    >>> bits = code.encode("Stega!!")
    >>> bits[:9] = 1 - bits[:9]  # two bytes are damaged
    >>> code.decode(bits[None] > 0.5)
    ['Stega!!']
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from reedsolo import ReedSolomonError, RSCodec
from torch import Tensor

from ....errors import SettingError

_PAD = b"\0"


@dataclass(frozen=True)
class MessageCode:
    """A code word of ``bits`` bits, ``8 * parity`` of them for correcting errors.

    Raises:
        SettingError: no whole number of bytes, more than a Reed-Solomon word has, or no room for a message.
    """

    bits: int = 96
    parity: int = 5

    def __post_init__(self) -> None:
        if self.bits % 8 or not 0 < self.bits <= 8 * 255:
            raise SettingError(f"A code word has 8, 16, ... 2040 bits, not {self.bits}.")
        if not 2 <= self.parity < self.bits // 8:
            raise SettingError(
                f"Of {self.bits // 8} bytes, 2 or more must correct errors and one must be left for the message, so "
                f"parity cannot be {self.parity}."
            )

    @property
    def capacity(self) -> int:
        """Characters of the longest message."""
        return self.bits // 8 - self.parity

    def encode(self, message: str) -> Float[Tensor, " bit"]:
        """Zeros and ones; shorter messages are padded.

        Raises:
            SettingError: the message is empty, too long, or not printable ASCII.
        """
        if not _is_message(message):
            raise SettingError(f"A message must be of printable ASCII characters, not {message!r}.")
        if len(message) > self.capacity:
            raise SettingError(
                f"{message!r} has {len(message)} characters, but {self.bits} bits hold {self.capacity} beside "
                f"{self.parity} bytes of error correction: shorten it or use {8 * (len(message) + self.parity)} bits."
            )
        word = RSCodec(self.parity).encode(message.encode().ljust(self.capacity, _PAD))
        return torch.tensor([(byte >> (7 - place)) & 1 for byte in word for place in range(8)], dtype=torch.float32)

    def decode(self, bits: Bool[Tensor, "batch bit"]) -> list[str | None]:
        """The message of each word; None where there are too many errors, or no text."""
        weights = 2 ** torch.arange(7, -1, -1, device=bits.device)
        words = (bits.reshape(len(bits), self.bits // 8, 8) * weights).sum(-1).tolist()
        codec = RSCodec(self.parity)
        return [_text(codec, bytes(word)) for word in words]


def _text(codec: RSCodec, word: bytes) -> str | None:
    try:
        text = bytes(codec.decode(word)[0]).rstrip(_PAD)
    except ReedSolomonError:
        return None
    return text.decode() if _is_message(text.decode("latin-1")) else None


def _is_message(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()
