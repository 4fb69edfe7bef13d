"""One head of a model: what it writes, patch by patch, and the page about it.

Example:
    >>> import torch
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> head = model.head(-1, 5)
    >>> images, texts = torch.zeros(2, 3, 64, 64), model.encode_text(["a red banana"]).detach()
    >>> head.name, head.contributions(images).shape, head.token_map(images, texts).shape
    ('L7H5', torch.Size([2, 128]), torch.Size([2, 65, 1]))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..attacks.triggers import Trigger
from ..data.sets import ImageSet
from ..model import HookedCLIP

if TYPE_CHECKING:
    from ..texts import TextPool
    from .result import HeadReport


@dataclass(frozen=True)
class Head:
    """A head; made by :meth:`HookedCLIP.head <clip_decomp.model.HookedCLIP.head>`, which checks that there is one."""

    model: HookedCLIP
    layer: int
    head: int

    @property
    def name(self) -> str:
        """As it is written: ``L11H3``."""
        return f"L{self.layer}H{self.head}"

    @torch.no_grad()
    def contributions(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch d_embed"]:
        """Direct contributions to the representations of normalized images."""
        return self.model.decompose(images).heads[:, self.layer, self.head]

    @torch.no_grad()
    def token_map(
        self, images: Float[Tensor, "batch 3 row column"], text_features: Float[Tensor, "text d_embed"]
    ) -> Float[Tensor, "batch token text"]:
        """How much each token of normalized images, through this head, pushes toward each text."""
        found = self.model.decompose(images, tokens=True).token_map(text_features, [self.layer], [self.head])
        return found[:, 0, 0]

    def inspect(
        self,
        data: ImageSet,
        held_out: ImageSet,
        trigger: Trigger | None = None,
        target: str | None = None,
        pool: TextPool | None = None,
        texts: Sequence[str] = (),
        n_images: int = 8,
        n_texts: int = 10,
        seed: int = 0,
        progress: bool = False,
    ) -> HeadReport:
        """Everything about this head, as a page and as numbers; see :func:`clip_decomp.inspect.inspect_head`."""
        from .measure import inspect_head

        return inspect_head(
            self, data, held_out, trigger, target, pool, texts, n_images, n_texts, seed=seed, progress=progress
        )
