"""Tokenizers of open_clip's models, some of which live on Hugging Face's hub.

Example:
    >>> tokenizer_of("ViT-B-32")(["a banana"]).shape
    torch.Size([1, 77])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import open_clip
from torch import Tensor

from ...errors import ModelError

Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class OutOfReach:
    """Stands for a tokenizer that could not be fetched: pictures can be read without it, texts cannot."""

    source: str
    reason: str

    def __call__(self, texts: list[str]) -> NoReturn:
        """Refuse.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"The tokenizer of {self.source!r} cannot be fetched, and is not in the local cache: {self.reason} "
            "Fetch it where there is a network, or set model.tokenizer."
        )


def tokenizer_of(source: str | None = None) -> Tokenizer:
    """The tokenizer of an open_clip name or source, or the default one; what cannot be fetched fails when called."""
    try:
        return open_clip.get_tokenizer(*(() if source is None else (source,)))
    except OSError as error:  # what transformers raises without a network
        return OutOfReach(str(source), (str(error).strip() or type(error).__name__).splitlines()[0])
