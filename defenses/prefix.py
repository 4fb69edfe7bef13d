"""What a frozen tower computes of an image before its first prompted block, and what it would make of it after that.

Neither depends on the prompts, so both are computed once an image and kept, in memory or in a file that is mapped into
memory; a training step then starts at the first prompted block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from clip_decomp.data.sets import BATCH_SIZE
from clip_decomp.models.hooked_vit import HookedViT
from clip_decomp.training.lean import lean


@dataclass(frozen=True)
class Prefix:
    """The frozen part of some images.

    Attributes:
        residual: the stream as it enters block ``first``.
        targets: class tokens behind every block from ``first`` on, in the unprompted tower; where the readout averages
            patches, their means.
    """

    first: int
    residual: Float[Tensor, "image token d_model"]
    targets: Float[Tensor, "image layer d_model"]

    def __len__(self) -> int:
        return len(self.residual)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        tower: HookedViT,
        images: Float[Tensor, "image 3 row column"],
        first: int,
        file: Path | None = None,
        bf16: bool = False,
        progress: bool = False,
    ) -> Prefix:
        """Compute it for normalized images.

        Args:
            first: the first prompted block.
            file: where the streams are kept; in memory if None.
        """
        layers, size = tower.n_layers - first, (len(images), tower.parts.n_tokens, tower.d_model)
        residual = torch.empty(size) if file is None else _mapped(file, size)
        targets = torch.empty(len(images), layers, tower.d_model)
        device = next(tower.parameters()).device
        for start in tqdm(range(0, len(images), BATCH_SIZE), "frozen prefix", disable=not progress):
            rows = slice(start, start + BATCH_SIZE)
            with lean(device, bf16):
                stream = tower.embed(images[rows].to(device))
                for block in tower.blocks[:first]:
                    stream = block(stream)
                residual[rows] = stream.float().cpu()
                targets[rows] = class_tokens(tower, stream, first)[1].float().cpu()
        return cls(first, residual, targets)


def class_tokens(
    tower: HookedViT, stream: Float[Tensor, "batch token d_model"], first: int
) -> tuple[Float[Tensor, "batch d_embed"], Float[Tensor, "batch layer d_model"]]:
    """Representations from the stream that enters block ``first``, and the class token behind every block from there.

    Where the readout averages patches, their mean stands for the class token. Prompts that are attached to the tower as
    keys take part. The last block works for what is read alone.

    Raises:
        ModelError: the tower reads by an attention pool.
    """
    tokens: list[Tensor] = []
    for block in tower.blocks[first:]:
        stream = block(stream, rows=tower.readout.reader.last_rows if block is tower.blocks[-1] else None)
        tokens.append(tower.readout.summary(stream))
    return tower.read(stream), torch.stack(tokens, dim=1)


def _mapped(file: Path, size: Sequence[int]) -> Tensor:
    file.parent.mkdir(parents=True, exist_ok=True)
    count = torch.Size(size).numel()
    return torch.from_file(str(file), shared=True, size=count, dtype=torch.float32).reshape(*size)
