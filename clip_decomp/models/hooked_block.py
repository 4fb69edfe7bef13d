"""One transformer block of an open_clip tower, recomputed over its own parameters with HookPoints in between.

The names and axis orders are TransformerLens's. Activations that are costly (attention patterns, per-head results, the
pre-softmax scores) are computed only when something is attached to their hook point; otherwise fused attention runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import LayerScale, ResidualAttentionBlock
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError


@dataclass
class Record:
    """What one forward pass leaves behind for a decomposition; one entry of each list is one layer.

    Attributes:
        tokens: keep the values of every token, too.
        edit_z: what the class token's z of a layer is replaced by, from the layer's number and what it is. Unlike a
            hook it belongs to one pass, so passes of several threads do not meet.
        embedding: residual stream of the class token before the first block.
        z: attention-weighted values of the class token's row.
        attention: the class token's row of the attention pattern.
        values: values of every token, if ``tokens``.
        mlp: MLP outputs at the class token, biases included.
        final: the class token's residual stream after the last block.
    """

    tokens: bool = False
    edit_z: Callable[[int, Float[Tensor, "batch head d_head"]], Float[Tensor, "batch head d_head"]] | None = None
    embedding: Float[Tensor, "batch d_model"] | None = None
    z: list[Float[Tensor, "batch head d_head"]] = field(default_factory=list)
    attention: list[Float[Tensor, "batch head token"]] = field(default_factory=list)
    values: list[Float[Tensor, "batch token head d_head"]] = field(default_factory=list)
    mlp: list[Float[Tensor, "batch d_model"]] = field(default_factory=list)
    final: Float[Tensor, "batch d_model"] | None = None


def attached(point: HookPoint) -> bool:
    """Whether anything listens at a hook point."""
    return bool(point.fwd_hooks or point.bwd_hooks)


class HookedNorm(nn.Module):
    """Layer norm with TransformerLens's two hook points: ``hook_scale`` (sigma) and ``hook_normalized``."""

    def __init__(self, norm: nn.LayerNorm | nn.Identity):
        super().__init__()
        self._norm: tuple[nn.LayerNorm | nn.Identity] = (
            norm,
        )  # a tuple, so that the tower's own module stays its only owner
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch token d_model"]:
        (norm,) = self._norm
        if isinstance(norm, nn.Identity):
            return self.hook_normalized(x)
        if not attached(self.hook_scale):
            return self.hook_normalized(norm(x))
        centered = x.float() - x.float().mean(-1, keepdim=True)
        scale = self.hook_scale((centered.square().mean(-1, keepdim=True) + norm.eps).sqrt())
        return self.hook_normalized((centered / scale * norm.weight + norm.bias).to(x.dtype))


class HookedAttention(nn.Module):
    """Self-attention of an ``nn.MultiheadAttention``, recomputed."""

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        if attention.in_proj_weight is None or attention.bias_k is not None or not attention.batch_first:
            raise ModelError("Only self-attention with one input projection is supported: this tower has another kind.")
        self._attention = (attention,)
        self.n_heads, self.d_head = attention.num_heads, attention.head_dim
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()

    @property
    def w_o(self) -> Float[Tensor, "head d_head d_model"]:
        """Output projection, one matrix a head."""
        weight = self._attention[0].out_proj.weight
        return weight.T.reshape(self.n_heads, self.d_head, weight.shape[0])

    @property
    def b_o(self) -> Float[Tensor, " d_model"]:
        """Output bias."""
        bias = self._attention[0].out_proj.bias
        return bias if bias is not None else torch.zeros_like(self._attention[0].out_proj.weight[:, 0])

    def forward(
        self, x: Float[Tensor, "batch token d_model"], record: Record | None, rows: int | None = None
    ) -> Float[Tensor, "batch row d_model"]:
        attention = self._attention[0]
        q, k, v = (each.unflatten(-1, (self.n_heads, self.d_head)) for each in self._projected(x, rows))
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        if attached(self.hook_attn_scores) or attached(self.hook_pattern):
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * self.d_head**-0.5
            pattern = self.hook_pattern(self.hook_attn_scores(scores).softmax(-1))
            z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
            row = pattern[:, :, 0]
        else:
            heads_first = (each.transpose(1, 2) for each in (q, k, v))
            z = _attend(*heads_first).transpose(1, 2)
            row = None
        z = self.hook_z(z)
        if record is not None:
            if record.edit_z is not None:
                repaired = record.edit_z(len(record.z), z[:, 0])
                z = torch.cat([repaired[:, None], z[:, 1:]], dim=1)
            if row is None:
                scores = torch.einsum("bhd,bkhd->bhk", q[:, 0].float(), k.float()) * self.d_head**-0.5
                row = scores.softmax(-1)
            record.z.append(z[:, 0])
            record.attention.append(row)
            if record.tokens:
                record.values.append(v)
        if attached(self.hook_result):
            result = self.hook_result(torch.einsum("bqhd,hdm->bqhm", z, self.w_o))
            return result.sum(2) + self.b_o
        return F.linear(z.flatten(2), attention.out_proj.weight, attention.out_proj.bias)

    def _projected(self, x: Tensor, rows: int | None) -> Sequence[Tensor]:
        """Queries (of the first rows), keys and values."""
        weight, bias = self._attention[0].in_proj_weight, self._attention[0].in_proj_bias
        if rows is None:
            return F.linear(x, weight, bias).chunk(3, dim=-1)
        width = len(weight) // 3
        first, others = (None, None) if bias is None else (bias[:width], bias[width:])
        q = F.linear(x[:, :rows], weight[:width], first)
        return q, *F.linear(x, weight[width:], others).chunk(2, dim=-1)


def _attend(
    q: Float[Tensor, "batch head row d_head"],
    k: Float[Tensor, "batch head token d_head"],
    v: Float[Tensor, "batch head token d_head"],
) -> Float[Tensor, "batch head row d_head"]:
    """Fused attention or, where torch was told to use plain products, these without torch's care for masks."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled():
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):  # which would compute the softmax in fp32
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


class HookedMLP(nn.Module):
    """The MLP ``c_fc -> activation -> c_proj``."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self._mlp = (mlp,)
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    @property
    def w_out(self) -> Float[Tensor, "neuron d_model"]:
        """Output matrix, one row a neuron."""
        return cast(nn.Linear, self._mlp[0].c_proj).weight.T

    def forward(self, x: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch token d_model"]:
        (mlp,) = self._mlp
        return mlp.c_proj(self.hook_post(mlp.gelu(self.hook_pre(mlp.c_fc(x)))))


class HookedBlock(nn.Module):
    """A residual attention block.

    Raises:
        ModelError: the block is of a kind whose sum of contributions has another form.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        if not isinstance(block, ResidualAttentionBlock):
            raise ModelError(
                f"Blocks of type {type(block).__name__} are not supported yet; open_clip's standard ones are."
            )
        self._block = (block,)
        self.hook_resid_pre, self.hook_resid_mid, self.hook_resid_post = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_out, self.hook_mlp_out = HookPoint(), HookPoint()
        self.ln1, self.ln2 = HookedNorm(block.ln_1), HookedNorm(block.ln_2)
        self.attn, self.mlp = HookedAttention(block.attn), HookedMLP(block.mlp)
        self._points = [module for module in self.modules() if isinstance(module, HookPoint)]

    @property
    def attached(self) -> bool:
        """Whether anything listens at one of the block's hook points."""
        return any(attached(point) for point in self._points)

    @property
    def attention_scale(self) -> Tensor | float:
        """LayerScale after attention, or 1."""
        return _layer_scale(self._block[0].ls_1)

    @property
    def mlp_scale(self) -> Tensor | float:
        """LayerScale after the MLP, or 1."""
        return _layer_scale(self._block[0].ls_2)

    @property
    def mlp_bias(self) -> Float[Tensor, " d_model"]:
        """Output bias of the MLP, LayerScale included."""
        return cast(nn.Linear, self._block[0].mlp.c_proj).bias * self.mlp_scale

    def beside(self, tokens: Float[Tensor, "token d_model"]) -> dict[str, Float[Tensor, "token head d_head"]]:
        """Keys ``k`` and values ``v`` of tokens that this block would read beside a picture's own."""
        block, heads = self._block[0], self.attn.n_heads
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        keys_values = F.linear(
            block.ln_1(tokens), weight[len(weight) // 3 :], None if bias is None else bias[len(bias) // 3 :]
        )
        k, v = keys_values.reshape(len(tokens), 2, heads, self.attn.d_head).unbind(1)
        return {"k": k, "v": v}

    def forward(
        self, x: Float[Tensor, "batch token d_model"], record: Record | None = None, rows: int | None = None
    ) -> Float[Tensor, "batch row d_model"]:
        """What follows the block at all tokens, or at the first ``rows``: what is not read need not be computed."""
        x = self.hook_resid_pre(x)
        if record is not None and record.embedding is None:
            record.embedding = x[:, 0]
        x = x[:, :rows] + self.hook_attn_out(self.attn(self.ln1(x), record, rows) * self.attention_scale)
        x = self.hook_resid_mid(x)
        mlp = self.hook_mlp_out(self.mlp(self.ln2(x)) * self.mlp_scale)
        if record is not None:
            record.mlp.append(mlp[:, 0])
        return self.hook_resid_post(x + mlp)


def _layer_scale(module: nn.Module) -> Tensor | float:
    return module.gamma if isinstance(module, LayerScale) else 1.0
