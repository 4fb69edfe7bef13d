r"""Readouts by attention: learned queries look at all tokens, as in SigLIP, PE and CoCa.

Pool head p reads :math:`\sum_t a^p_t\, \mathrm{LN}(z_t)\, W_V^p W_O^p`; a pool MLP may follow, an addend of its own,
and another norm (CoCa). Components of the trunk that are read through pool heads are the addends; pool heads are a
marginal over the same sum.

Hook points: ``ln_final.*`` (every token), ``attn_pool.attn.hook_q|k|v|attn_scores|pattern|z|result``,
``attn_pool.hook_attn_out``, ``attn_pool.ln.*`` and ``attn_pool.mlp.hook_pre|post`` and ``attn_pool.hook_mlp_out`` where
there is an MLP, ``ln_pool.*`` where a norm follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError
from .hooked_parts import HookedAttention, HookedMLP, HookedNorm
from .readers import EveryToken, wide
from .readouts import Output, Reading, ReadMap, Readout
from .recording import Record
from .towers.parts import AttentionParts, MLPParts


class HookedPool(nn.Module):
    """The attention of one query and, if there is one, the MLP behind it."""

    def __init__(
        self,
        attention: AttentionParts,
        norm: nn.LayerNorm | nn.Identity | None = None,
        mlp: MLPParts | None = None,
    ):
        super().__init__()
        self.attn = HookedAttention(attention)
        self.hook_attn_out = HookPoint()
        self.mlp = None if mlp is None else HookedMLP(mlp)
        if mlp is not None:
            self.ln, self.hook_mlp_out = HookedNorm(norm or nn.Identity()), HookPoint()

    def forward(
        self, x: Float[Tensor, "batch token d_model"], record: Record | None = None
    ) -> Float[Tensor, "batch 1 d_pool"]:
        out, heard = self.attn(x, record, rows=1)
        out = self.hook_attn_out(out)
        if record is not None and heard is not None:
            record.attended(heard)
        if self.mlp is None:
            return out
        mlp = self.hook_mlp_out(self.mlp(self.ln(out)))
        if record is not None:
            record.wrote(mlp, None)
        return out + mlp


@dataclass(frozen=True)
class AttentionPooled(Readout):
    """See the module.

    Attributes:
        norm: of every token, before the pool.
        start: the first token that the pool sees.
        norm_behind: between the pool and the projection; of an identity nothing is left.
    """

    norm: HookedNorm
    pool: HookedPool
    output: Output
    start: int = 0
    norm_behind: HookedNorm | None = None
    reader: EveryToken = field(default_factory=EveryToken)
    describes = "attention pool"

    @property
    def rows(self) -> int:
        """One a pool head."""
        return self.pool.attn.n_heads

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Norm, pool, and the norm behind it."""
        found = {"ln_final": self.norm, "attn_pool": self.pool}
        return found if self.norm_behind is None else {**found, "ln_pool": self.norm_behind}

    def __call__(self, stream: Tensor, record: Record | None = None) -> Tensor:
        """The first query's output."""
        own = None
        if record is not None:
            own = record.pool = Record()
        pooled = self.pool(self.norm(stream)[:, self.start :], own)
        if record is not None:
            record.pooled = pooled[:, 0]
        return self.output((pooled if self.norm_behind is None else self.norm_behind(pooled))[:, 0])

    def summary(self, stream: Tensor) -> Tensor:
        """Refused."""
        raise ModelError(
            "This tower reads by an attention pool, so no single token or average stands for a picture within it: take "
            "a model that reads its class token or averages patches."
        )

    def read_map(self, center: bool = True) -> ReadMap:
        """To the values of every pool head, and from there through its output."""
        inward = self._values()
        if self.norm.gain is not None:
            inward = wide(self.norm.gain)[:, None] * inward
            inward = inward - inward.mean(1, keepdim=True) if center else inward
        return ReadMap(inward, self.pool.attn.folded @ self._behind(center))

    def reading(self, record: Record) -> Reading:
        """Weights are a pool head's attention over every token's sigma."""
        own, stream, pooled = record.pool, record.stream, record.pooled
        assert own is not None
        assert stream is not None
        assert pooled is not None
        attending = torch.nn.functional.pad(wide(own.attention[0]), (self.start, 0))
        weights = attending / self.norm.sigma(stream)[:, None]
        record.contract(weights, attending)
        scale = torch.ones_like(weights[:, 0, 0])
        if self.norm_behind is not None:
            scale = 1 / self.norm_behind.sigma(pooled)
        behind = self._behind()
        constant, outputs = self._constant(attending.sum(-1)), wide(self.pool.attn.b_o)
        pool_mlp = None
        if self.pool.mlp is not None:
            bias = wide(self.pool.mlp.b_out)
            outputs = outputs + bias
            pool_mlp = (wide(own.mlp[0]) - bias) @ behind * scale[:, None]
        constant = (constant + outputs) @ behind * scale[:, None] + self._last()
        return Reading(scale, constant, total=weights.sum(-1), pool_mlp=pool_mlp)

    def _values(self) -> Float[Tensor, "pool d_model d_inner"]:
        """Value matrices, from what the projection does to unit vectors."""
        return self._value_maps()[0]

    def _value_maps(self) -> tuple[Tensor, Tensor]:
        attn = self.pool.attn
        weight, bias = attn.parts.project.value_map()
        heads = wide(weight).reshape(attn.n_heads, attn.d_head, -1)
        offset = heads.new_zeros(heads.shape[:2]) if bias is None else wide(bias).reshape(heads.shape[:2])
        return heads.mT, offset

    def _behind(self, center: bool = True) -> Float[Tensor, "d_pool d_embed"]:
        """What follows the pool, but for a norm's scale."""
        matrix = self.output.matrix
        if self.norm_behind is None or self.norm_behind.gain is None:
            return matrix
        matrix = wide(self.norm_behind.gain)[:, None] * matrix
        return matrix - matrix.mean(0, keepdim=True) if center else matrix

    def _constant(self, attention: Float[Tensor, "batch pool"]) -> Float[Tensor, "batch d_pool"]:
        """What value biases and the norm's beta come to behind the heads' outputs."""
        weight, bias = self._value_maps()
        if self.norm.offset is not None:
            bias = bias + torch.einsum("m,pmd->pd", wide(self.norm.offset), weight)
        each = torch.einsum("pd,pdo->po", bias, self.pool.attn.folded)
        return attention @ each

    def _last(self) -> Float[Tensor, "*d_embed"]:
        """Biases behind everything."""
        found = self.output.matrix.new_zeros(())
        if self.norm_behind is not None and self.norm_behind.offset is not None:
            found = wide(self.norm_behind.offset) @ self.output.matrix
        return found if self.output.bias is None else found + self.output.bias
