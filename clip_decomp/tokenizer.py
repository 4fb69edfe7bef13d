"""A small byte-pair tokenizer for the CLIPs the project trains itself.

open_clip's own vocabulary has 49,408 entries, more weights than the rest of a tiny CLIP. This one is trained on the
captions at hand with the `tokenizers` library, knows every byte (so any string can be encoded) and follows the layout
open_clip's text tower expects: start token, text, end token (the highest id, which the tower pools at), zeros.

Example:
    >>> tokenizer = BPETokenizer.train(["a photo of a banana"], vocab_size=300, context_length=8)
    >>> tokenizer(["a photo of a banana"]).shape
    torch.Size([1, 8])
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

_PAD = "<pad>"


class BPETokenizer:
    """Callable like open_clip's tokenizers: ``tokenizer(texts) -> [text, context_length]`` token ids.

    Texts longer than the context are cut before the end token, as open_clip does.
    """

    def __init__(self, tokenizer: Tokenizer, context_length: int):
        self.tokenizer = tokenizer
        self.context_length = context_length
        # Two learned entries (start and end) lie above the byte-pair vocabulary; id 0 pads.
        self.start, self.end = tokenizer.get_vocab_size(), tokenizer.get_vocab_size() + 1
        self.vocab_size = tokenizer.get_vocab_size() + 2

    @classmethod
    def train(cls, texts: list[str], vocab_size: int, context_length: int) -> BPETokenizer:
        """Learn ``vocab_size`` entries (the 256 bytes and the three specials included) from ``texts``."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size - 2,
            special_tokens=[_PAD],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, context_length)

    @classmethod
    def from_json(cls, text: str, context_length: int) -> BPETokenizer:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: it is not a tokenizer.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing more specific
            raise ValueError(f"Not a tokenizer: {error}.") from error
        return cls(tokenizer, context_length)

    def to_json(self) -> str:
        """The tokenizer as the `tokenizers` library's JSON."""
        return self.tokenizer.to_str()

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Int[Tensor, "text position"]:
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = context_length or self.context_length
        result = torch.zeros(len(texts), length, dtype=torch.long)
        for row, encoding in enumerate(self.tokenizer.encode_batch(texts)):
            ids = [self.start, *encoding.ids[: length - 2], self.end]
            result[row, : len(ids)] = torch.tensor(ids)
        return result
