"""Norms, attention and MLPs with HookPoints, over the parts that an adapter names.

The names and axis orders are TransformerLens's. Activations that are costly (attention patterns, per-head results, the
pre-softmax scores) are computed only when something is attached to their hook point; otherwise fused attention runs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from .readers import Heard, wide
from .recording import Record
from .towers.parts import AttentionParts, MLPParts, zero_bias


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

    @property
    def gain(self) -> Float[Tensor, " d_model"] | None:
        """Gamma; None for an identity."""
        (norm,) = self._norm
        return None if isinstance(norm, nn.Identity) else norm.weight

    @property
    def offset(self) -> Float[Tensor, " d_model"] | None:
        """Beta; None where there is none."""
        (norm,) = self._norm
        return None if isinstance(norm, nn.Identity) else norm.bias

    def sigma(self, x: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes"]:
        """What the norm divides by, in float32 at least; 1 for an identity."""
        (norm,) = self._norm
        x = wide(x)
        if isinstance(norm, nn.Identity):
            return torch.ones_like(x[..., 0])
        mean = x.mean(-1, keepdim=True)
        return ((x - mean).square().mean(-1) + norm.eps).sqrt()

    def forward(self, x: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch token d_model"]:
        (norm,) = self._norm
        if isinstance(norm, nn.Identity):
            return self.hook_normalized(x)
        if not attached(self.hook_scale):
            return self.hook_normalized(norm(x))
        centered = wide(x) - wide(x).mean(-1, keepdim=True)
        scale = self.hook_scale((centered.square().mean(-1, keepdim=True) + norm.eps).sqrt())
        normalized = centered / scale * norm.weight
        return self.hook_normalized((normalized if norm.bias is None else normalized + norm.bias).to(x.dtype))


class HookedAttention(nn.Module):
    """An attention, recomputed."""

    def __init__(self, parts: AttentionParts):
        super().__init__()
        self._parts = (parts,)
        self.n_heads, self.d_head = parts.n_heads, parts.d_head
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        if parts.rotary is not None:
            self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()
        self.ln_z = None if parts.inner is None else HookedNorm(parts.inner)

    @property
    def parts(self) -> AttentionParts:
        """The library's modules."""
        return self._parts[0]

    @property
    def w_o(self) -> Float[Tensor, "head d_head d_model"]:
        """Output projection, one matrix a head."""
        weight = self.parts.out.weight
        return weight.T.reshape(self.n_heads, self.d_head, weight.shape[0])

    @property
    def b_o(self) -> Float[Tensor, " d_model"]:
        """Output bias."""
        return zero_bias(self.parts.out)

    @property
    def folded(self) -> Float[Tensor, "head d_head d_model"]:
        """:attr:`w_o` with the gain of a norm before it, which centers; in float32 at least."""
        if self.ln_z is None:
            return wide(self.w_o)
        gain = self.ln_z.gain
        assert gain is not None
        weight = wide(gain)[:, None] * wide(self.parts.out.weight).T
        return (weight - weight.mean(0, keepdim=True)).reshape(self.n_heads, self.d_head, -1)

    @property
    def constant(self) -> Float[Tensor, " d_model"]:
        """What the attention writes whatever it sees: output bias and the beta of a norm before it."""
        offset = None if self.ln_z is None else self.ln_z.offset
        return wide(self.b_o) if offset is None else wide(self.b_o) + wide(self.parts.out.weight) @ wide(offset)

    def forward(
        self,
        x: Float[Tensor, "batch token d_model"],
        record: Record | None = None,
        rows: int | None = None,
        mask: Float[Tensor, "_ 1 token token"] | None = None,
    ) -> tuple[Float[Tensor, "batch row d_model"], Heard | None]:
        """What is written and, for a record, what was heard.

        Args:
            mask: added to the scores.
        """
        parts = self.parts
        q, k, v = (each.unflatten(-1, (self.n_heads, self.d_head)) for each in parts.project(x, rows))
        q, k, v = self.hook_q(q), self.hook_k(k), self.hook_v(v)
        q, k = q if parts.q_norm is None else parts.q_norm(q), k if parts.k_norm is None else parts.k_norm(k)
        if parts.rotary is not None:
            q, k = self.hook_rot_q(parts.rotary(q)), self.hook_rot_k(parts.rotary(k))
        bias = None if parts.bias is None else parts.bias(q.shape[1], k.shape[1])
        if mask is not None:
            mask = mask[:, :, : q.shape[1]]
            bias = mask if bias is None else bias + mask
        pattern = None
        if attached(self.hook_attn_scores) or attached(self.hook_pattern):
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * self.d_head**-0.5
            scores = scores if bias is None else scores + bias
            pattern = self.hook_pattern(self.hook_attn_scores(scores).softmax(-1))
            z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        else:
            heads_first = (each.transpose(1, 2) for each in (q, k, v))
            z = _attend(*heads_first, bias=bias).transpose(1, 2)
        z = self.hook_z(z)
        if record is not None and record.edit_z is not None:
            repaired = record.edit_z(len(record.z), z[:, 0])
            z = torch.cat([repaired[:, None], z[:, 1:]], dim=1)
        flat, scale = z.flatten(2), None
        if self.ln_z is not None:
            scale = None if record is None else 1 / self.ln_z.sigma(flat)[..., None]
            flat = self.ln_z(flat)
        heard = None if record is None else Heard(z, q, k, v, pattern, bias, scale)
        if attached(self.hook_result):
            result = self.hook_result(torch.einsum("bqhd,hdm->bqhm", flat.view_as(z), self.w_o))
            return result.sum(2) + self.b_o, heard
        return F.linear(flat, parts.out.weight, parts.out.bias), heard

    def beside(self, x: Float[Tensor, "token d_model"]) -> dict[str, Float[Tensor, "token head d_head"]]:
        """Keys ``k`` and values ``v`` of normalized tokens, as they pass ``hook_k`` and ``hook_v``."""
        k, v = (each.unflatten(-1, (self.n_heads, self.d_head)) for each in self.parts.project.keys_values(x))
        return {"k": k, "v": v}


def _attend(
    q: Float[Tensor, "batch head row d_head"],
    k: Float[Tensor, "batch head token d_head"],
    v: Float[Tensor, "batch head token d_head"],
    bias: Float[Tensor, "_ head row token"] | None,
) -> Float[Tensor, "batch head row d_head"]:
    """Fused attention or, where torch was told to use plain products, these without torch's care for masks."""
    if q.device.type != "cpu" or torch.compiler.is_compiling() or torch.backends.cuda.flash_sdp_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    with torch.autocast("cpu", enabled=False):  # which would compute the softmax in fp32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        return (scores if bias is None else scores + bias).softmax(-1) @ v


class HookedMLP(nn.Module):
    """An MLP; ``hook_pre`` is before the activation, ``hook_post`` before the output matrix.

    A gated MLP has ``hook_pre_linear`` as well, the branch that the activation multiplies; one with a norm before its
    output matrix has ``ln.hook_scale|hook_normalized``.
    """

    def __init__(self, parts: MLPParts):
        super().__init__()
        self._parts = (parts,)
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()
        if parts.linear is not None:
            self.hook_pre_linear = HookPoint()
        self.ln = None if parts.norm is None else HookedNorm(parts.norm)

    @property
    def w_out(self) -> Float[Tensor, "neuron d_model"]:
        """Output matrix, one row a neuron."""
        return self._parts[0].out.weight.T

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        """Output bias."""
        return zero_bias(self._parts[0].out)

    def forward(self, x: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch token d_model"]:
        (parts,) = self._parts
        post = parts.act(self.hook_pre(parts.up(x)))
        if parts.linear is not None:
            post = post * self.hook_pre_linear(parts.linear(x))
        if self.ln is not None:
            post = self.ln(post)
        return parts.out(self.hook_post(post))
