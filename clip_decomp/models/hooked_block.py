"""One transformer block, recomputed over its own parameters with HookPoints in between; see :mod:`.hooked_parts`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from .hooked_parts import HookedAttention, HookedMLP, HookedNorm, attached
from .readers import wide
from .recording import Record
from .towers.parts import BlockParts

__all__ = ["Constants", "HookedBlock", "HookedNorm", "Record", "attached"]


@dataclass(frozen=True)
class Constants:
    """What a branch of a block writes whatever it sees.

    Attributes:
        fixed: to every token.
        scaled: over the sigma of the norm behind the branch; None without one.
    """

    fixed: Float[Tensor, " d_model"]
    scaled: Float[Tensor, " d_model"] | None = None


class HookedBlock(nn.Module):
    """A residual attention block.

    Hook points of norms behind attention and MLP are ``ln1_post`` and ``ln2_post``; most blocks have none.
    """

    def __init__(self, parts: BlockParts):
        super().__init__()
        self._parts = (parts,)
        self.hook_resid_pre, self.hook_resid_mid, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()
        self.ln1, self.ln2 = HookedNorm(parts.norm1), HookedNorm(parts.norm2)
        self.ln1_post = None if parts.post1 is None else HookedNorm(parts.post1)
        self.ln2_post = None if parts.post2 is None else HookedNorm(parts.post2)
        self.attn, self.mlp = HookedAttention(parts.attention), HookedMLP(parts.mlp)
        self._points = [module for module in self.modules() if isinstance(module, HookPoint)]

    @property
    def attached(self) -> bool:
        """Whether anything listens at one of the block's hook points."""
        return any(attached(point) for point in self._points)

    @property
    def attention_scale(self) -> Tensor | float:
        """LayerScale after attention, or 1."""
        return self._parts[0].scale1()

    @property
    def mlp_scale(self) -> Tensor | float:
        """LayerScale after the MLP, or 1."""
        return self._parts[0].scale2()

    @property
    def w_heads(self) -> Float[Tensor, "head d_head d_model"]:
        """What turns z into the stream: output matrices with norms' gains and LayerScale folded in, in float32."""
        return _behind(self.attn.folded, self.ln1_post) * _wide(self.attention_scale)

    @property
    def w_neurons(self) -> Float[Tensor, "neuron d_model"]:
        """The same for what passes ``mlp.hook_post``."""
        return _behind(wide(self.mlp.w_out), self.ln2_post) * _wide(self.mlp_scale)

    @property
    def attention_constants(self) -> Constants:
        """Biases on the way from z to the stream."""
        return _constants(self.attn.constant, self.ln1_post, self.attention_scale)

    @property
    def mlp_constants(self) -> Constants:
        """Biases behind the MLP's output matrix."""
        return _constants(wide(self.mlp.b_out), self.ln2_post, self.mlp_scale)

    def beside(self, tokens: Float[Tensor, "token d_model"]) -> dict[str, Float[Tensor, "token head d_head"]]:
        """Keys ``k`` and values ``v`` of tokens that this block would read beside a picture's own."""
        return self.attn.beside(self._parts[0].norm1(tokens))

    def forward(
        self,
        x: Float[Tensor, "batch token d_model"],
        record: Record | None = None,
        rows: int | None = None,
        mask: Float[Tensor, "_ 1 token token"] | None = None,
    ) -> Float[Tensor, "batch row d_model"]:
        """What follows the block at all tokens, or at the first ``rows``: what is not read need not be computed.

        Args:
            mask: added to attention scores.
        """
        x = self.hook_resid_pre(x)
        if record is not None:
            record.began(x)
        x = self.hook_resid_mid(x[:, :rows] + self._attended(x, record, rows, mask))
        mlp, behind = _normed(self.ln2_post, self.mlp(self.ln2(x)), record)
        mlp = self.hook_mlp_out(_scaled(mlp, self.mlp_scale))
        if record is not None:
            record.wrote(mlp, behind)
        return self.hook_resid_post(x + mlp)

    def _attended(self, x: Tensor, record: Record | None, rows: int | None, mask: Tensor | None) -> Tensor:
        """What the attention writes; queries, keys and values end with it, before the MLP needs its room."""
        attention, heard = self.attn(self.ln1(x), record, rows, mask)
        attention, behind = _normed(self.ln1_post, attention, record)
        if record is not None and heard is not None:
            record.attended(heard, behind)
        return self.hook_attn_out(_scaled(attention, self.attention_scale))


def _normed(norm: HookedNorm | None, x: Tensor, record: Record | None) -> tuple[Tensor, Tensor | None]:
    """Through a norm behind a branch, and what it multiplies by if someone records."""
    if norm is None:
        return x, None
    return norm(x), None if record is None else 1 / norm.sigma(x)[..., None]


def _scaled(x: Tensor, scale: Tensor | float) -> Tensor:
    """Without a pass over ``x`` where there is nothing to multiply."""
    return x * scale if isinstance(scale, Tensor) else x


def _behind(weight: Float[Tensor, "*axes d_model"], norm: HookedNorm | None) -> Float[Tensor, "*axes d_model"]:
    """A map into the stream with the norm behind it, but for the norm's scale."""
    if norm is None:
        return weight
    assert norm.gain is not None
    return (weight - weight.mean(-1, keepdim=True)) * wide(norm.gain)


def _constants(bias: Tensor, norm: HookedNorm | None, scale: Tensor | float) -> Constants:
    scale = _wide(scale)
    if norm is None:
        return Constants(bias * scale)
    offset = torch.zeros_like(bias) if norm.offset is None else wide(norm.offset)
    return Constants(offset * scale, _behind(bias, norm) * scale)


def _wide(scale: Tensor | float) -> Tensor | float:
    return wide(scale) if isinstance(scale, Tensor) else scale
