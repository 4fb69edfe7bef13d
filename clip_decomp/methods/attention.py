r"""Where heads look, and what they carry from there: maps over patches from attention.

* :func:`attention_maps`: the readout row of every head, on the grid of patches.
* :func:`head_maps`, :func:`relevance`: what each patch writes through heads, toward a text (Gandelsman et al. 2024): a
  part of the exact sum :math:`\mathrm{head}_{l,h} = \sum_n a^{l,h}_n\, v^{l,h}_n W_O^{l,h} W_{read} / \sigma`.
* :func:`split_tokens`: how the row divides between class token, patches and prompts.
* :func:`rollout`, :func:`attention_between`: of full patterns, see :mod:`clip_decomp.methods.patterns`.

Limits: attention says where a head reads, not what it writes. Token maps are direct effects only, and in late layers a
patch's token has already mixed with the others.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> images, grid = torch.zeros(2, 3, 64, 64), model.visual.grid
    >>> dec = model.decompose(images, tokens=True)
    >>> attention_maps(dec, grid).shape, relevance(dec, model.encode_text(["a red banana"]), grid).shape
    (torch.Size([2, 8, 12, 8, 8]), torch.Size([2, 8, 8, 1]))
    >>> patch_grid(rollout(model, images), grid).shape
    torch.Size([2, 8, 8])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..decomposition import Decomposition
from ..errors import SettingError
from .patterns import GROUPS, GroupAttention, attention_between, rollout

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "GroupAttention",
    "TokenShares",
    "attention_between",
    "attention_maps",
    "head_maps",
    "patch_grid",
    "relevance",
    "rollout",
    "split_tokens",
    "upsample",
]


@dataclass(frozen=True)
class TokenShares:
    """How the readout row of every head divides between groups of tokens; the three add up to 1."""

    class_token: Float[Tensor, "batch layer head"]
    patches: Float[Tensor, "batch layer head"]
    prompts: Float[Tensor, "batch layer head"]

    def to_frame(self) -> pd.DataFrame:
        """A pandas ``DataFrame`` with one row a head: means over the images."""
        import pandas as pd

        parts = (self.class_token, self.patches, self.prompts)
        means = torch.stack([part.mean(0) for part in parts], dim=-1).flatten(0, 1)
        _, n_layers, n_heads = self.class_token.shape
        names = [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]
        return pd.DataFrame(means.cpu().numpy(), columns=list(GROUPS), index=pd.Index(names, name="head"))

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(float_format=lambda x: f"{x:.3f}")


def patch_grid(
    values: Float[Tensor, "*axes"], grid: tuple[int, int], dim: int = -1, prefix: int = 1
) -> Float[Tensor, "*more"]:
    """A token axis as two axes, row and column of patches; class token and prompts are left out.

    Args:
        grid: patches along rows and columns: ``model.visual.grid``.
        dim: the token axis.
        prefix: tokens before the patches, the class token in most towers: ``model.visual.n_prefix``.

    Raises:
        SettingError: fewer tokens than the grid has patches, and a class token.
    """
    rows, columns = grid
    if values.shape[dim] < prefix + rows * columns:
        start = "A class token and " if prefix == 1 else f"{prefix} tokens before and "
        raise SettingError(
            f"{start}{rows} x {columns} patches are {prefix + rows * columns} tokens, "
            f"but axis {dim} of {list(values.shape)} has {values.shape[dim]}."
        )
    return values.narrow(dim, prefix, rows * columns).unflatten(dim, (rows, columns))


def split_tokens(
    attention: Float[Tensor, "batch layer head token"], grid: tuple[int, int], prefix: int = 1
) -> TokenShares:
    """Share of every head's readout row that goes to the class token, to the patches and to prompts.

    Args:
        attention: :attr:`Decomposition.attention <clip_decomp.decomposition.Decomposition.attention>`; of an attention
            pool that of one pool head, or their mean. Tokens after the patches are prompts; without any, their share
            is 0.
        prefix: tokens before the patches: ``model.visual.n_prefix``. Registers count with the class token.
    """
    if attention.ndim != 4:
        raise SettingError(
            f"Attention must be [batch, layer, head, token], not {list(attention.shape)}: of an attention pool choose "
            "one pool head, or take their mean."
        )
    patches = patch_grid(attention, grid, prefix=prefix).sum((-2, -1))
    prompts = attention[..., prefix + grid[0] * grid[1] :].sum(-1)
    return TokenShares(attention[..., :prefix].sum(-1), patches, prompts)


def attention_maps(dec: Decomposition, grid: tuple[int, int]) -> Float[Tensor, "batch layer head *pool row column"]:
    """The readout row of every head on the grid of patches; 1 minus its sum is what other tokens get.

    In attention-pooled towers there is a row for every pool head.
    """
    return patch_grid(dec.attention, grid, prefix=dec.n_prefix)


def head_maps(
    dec: Decomposition,
    text_features: Float[Tensor, "text d_embed"],
    grid: tuple[int, int],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Float[Tensor, "batch layer head row column text"]:
    """How much each patch, through each head, pushes toward each text.

    In units of the representation's projection on the text; negative is away from it. With the class token's share the
    sum is :meth:`Decomposition.toward <clip_decomp.decomposition.Decomposition.toward>`.

    Raises:
        SettingError: decomposed without ``tokens=True``, no such head, or text features of another width or not finite.
    """
    check_texts(text_features, dec.embedding.shape[-1])
    return patch_grid(dec.token_map(text_features, layers, heads), grid, dim=3, prefix=dec.n_prefix)


def relevance(
    dec: Decomposition,
    text_features: Float[Tensor, "text d_embed"],
    grid: tuple[int, int],
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    minus: Float[Tensor, "other d_embed"] | None = None,
) -> Float[Tensor, "batch row column text"]:
    """:func:`head_maps` summed over layers and heads: the map that Gandelsman et al. (2024) segment with.

    Args:
        layers: the layers to sum, all by default; the last four hold most of it in the paper's models.
        minus: other texts, e.g. of all classes, whose mean map is subtracted.

    Raises:
        SettingError: as :func:`head_maps`.
    """
    check_texts(text_features, dec.embedding.shape[-1])
    if minus is not None:
        check_texts(minus, dec.embedding.shape[-1])
        text_features = text_features - minus.mean(0)  # maps are linear in the text
    chosen = range(dec.n_layers) if layers is None else layers
    if not len(chosen) or (heads is not None and not len(heads)):
        raise SettingError("There are no heads to sum: name one layer and one head or more.")
    total = torch.zeros((), device=dec.z.device)
    for layer in chosen:
        total = total + dec.token_map(text_features, [layer], heads).sum((1, 2))
    return patch_grid(total, grid, dim=1, prefix=dec.n_prefix)


def upsample(
    maps: Float[Tensor, "*axes row column"],
    size: tuple[int, int],
    mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
) -> Float[Tensor, "*axes pixel_row pixel_column"]:
    """Maps of patches at the size of pictures. Where the text axis is last, move it: ``maps.movedim(-1, 1)``.

    Example:
        >>> upsample(torch.tensor([[0.0, 1.0]]), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    if maps.ndim < 2 or 0 in maps.shape:
        raise SettingError(f"Maps to upsample must be [..., row, column], not {list(maps.shape)}.")
    if mode not in ("bilinear", "bicubic", "nearest"):
        raise SettingError(f"Maps are upsampled bilinear, bicubic or nearest, not {mode!r}.")
    corners = None if mode == "nearest" else False
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size, mode=mode, align_corners=corners).reshape(*maps.shape[:-2], *size)


def check_texts(text_features: Tensor, d_embed: int) -> None:
    """Refuse text features of another width or with values that are not finite, with a SettingError."""
    if text_features.ndim != 2 or text_features.shape[1] != d_embed or not len(text_features):
        raise SettingError(f"Text features must be [text, {d_embed}], not {list(text_features.shape)}.")
    bad = (~text_features.isfinite()).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise SettingError(f"Text features {bad[:5]} are not finite: encode these texts again, or leave them out.")
