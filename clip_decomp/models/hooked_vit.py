"""A vision transformer as a TransformerLens ``HookedRootModule``, whatever library its modules come from.

The weights stay the original model's own parameters: nothing is copied, so fine-tuning or exporting the original and
this view of it are the same thing. With nothing attached the output is the original tower's. Which towers there are is
listed in :mod:`clip_decomp.models.towers.adapters`, how they read their stream in :mod:`clip_decomp.models.readouts`.

Hook points: ``hook_embed``, ``hook_pos_embed``, ``ln_pre.hook_scale|hook_normalized``, for each block
``blocks.{l}.hook_resid_pre|hook_attn_out|hook_resid_mid|hook_mlp_out|hook_resid_post``,
``blocks.{l}.ln1|ln2.hook_scale|hook_normalized``, ``blocks.{l}.attn.hook_q|k|v|attn_scores|pattern|z|result``,
``blocks.{l}.mlp.hook_pre|hook_post``, and ``ln_final.hook_scale|hook_normalized``. Where the library has them, too:
``attn.hook_rot_q|rot_k`` (rotary positions), ``attn.ln_z`` (a norm over the heads), ``mlp.hook_pre_linear`` and
``mlp.ln`` (a gated MLP and a norm in it), ``ln1_post|ln2_post`` (norms behind attention and MLP), and those of an
attention pool (:mod:`clip_decomp.models.pooling`).

Example:
    >>> import torch
    >>> from clip_decomp.training.architecture import Architecture, build
    >>> tower = HookedViT(build(Architecture(layers=1, width=32, heads=2), seed=0).visual.eval())
    >>> _, cache = tower.run_with_cache(torch.zeros(1, 3, 64, 64))
    >>> tuple(cache["blocks.0.attn.hook_pattern"].shape)
    (1, 2, 65, 65)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from ..errors import ModelError
from .hooked_block import HookedBlock
from .hooked_parts import HookedNorm
from .inputs import check_images
from .kept import Kept, Value
from .readers import FirstToken
from .readouts import Readout
from .recording import Record
from .towers.adapters import parts_of
from .towers.parts import TowerParts


class HookedViT(HookedRootModule):
    """Hooked view of a vision transformer.

    Attributes:
        tower: the original module, whose parameters are used.
        blocks: one :class:`~clip_decomp.models.hooked_block.HookedBlock` a layer.

    Raises:
        ModelError: a tower that is no plain vision transformer, or one with parts that are not supported.
    """

    tower: nn.Module
    blocks: Sequence[HookedBlock]

    def __init__(self, tower: nn.Module):
        super().__init__()
        parts = parts_of(tower)
        self.tower, self._parts = tower, (parts,)
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()
        self.ln_pre = HookedNorm(parts.pre_norm)
        for name, module in parts.readout.modules.items():
            self.add_module(name, module)
        blocks = nn.ModuleList([HookedBlock(block) for block in parts.blocks])
        self.blocks = cast(Sequence[HookedBlock], blocks)
        self._kept = Kept(self.parameters)
        self.setup()

    @property
    def parts(self) -> TowerParts:
        """The library's modules."""
        return self._parts[0]

    @property
    def readout(self) -> Readout:
        """How the final stream is read."""
        return self.parts.readout

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """Heads a block."""
        return self.blocks[0].attn.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.parts.d_model

    @property
    def d_embed(self) -> int:
        """Dimensions of the joint space."""
        return self.parts.d_embed

    @property
    def image_size(self) -> int:
        """Side of the input in pixels."""
        return self.parts.image_size[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along rows and columns."""
        return self.parts.grid

    @property
    def n_prefix(self) -> int:
        """Tokens before the patches: class token and registers."""
        return self.parts.n_prefix

    @property
    def reads_class_token(self) -> bool:
        """Whether the representation is the class token's alone."""
        return isinstance(self.readout.reader, FirstToken)

    def forward(
        self, images: Float[Tensor, "batch 3 row column"], record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations; a ``record`` collects what a decomposition needs.

        Raises:
            SettingError: images of another shape than the tower's.
            ModelError: a record that edits the class token's z, where another readout reads.
        """
        return self.resume(self.embed(images), 0, record)

    def embed(self, images: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch token d_model"]:
        """The residual stream as it enters the first block.

        Raises:
            SettingError: images of another shape than the tower's.
        """
        parts = self.parts
        check_images(images, *parts.image_size)
        x = self.hook_embed(parts.embed(images))
        positions = self.hook_pos_embed(parts.positions(x))
        return self.ln_pre(parts.dropped(x + positions))

    def resume(
        self, residual: Float[Tensor, "batch token d_model"], layer: int, record: Record | None = None
    ) -> Float[Tensor, "batch d_embed"]:
        """Image representations from the residual stream as it enters a block; earlier blocks do not run.

        Where only the class token's row of the last block is read, only it is computed unless something is attached
        there.
        """
        reader = self.readout.reader
        if record is not None:
            record.reader, record.layers = reader, self.n_layers - layer
            if record.edit_z is not None and not self.reads_class_token:
                raise ModelError(
                    f"Heads are edited on the way at the class token, and this tower reads by {self.readout.describes}:"
                    " take a model that reads its class token, or edit contributions."
                )
        x = residual
        for block in self.blocks[layer:]:
            last = block is self.blocks[-1]
            x = block(x, record, rows=reader.last_rows if last and not block.attached else None)
        if record is not None:
            record.ended(x)
        return self.readout(x, record)

    def read(self, residual: Float[Tensor, "batch token d_model"]) -> Float[Tensor, "batch d_embed"]:
        """Image representations from the residual stream behind the last block."""
        return self.readout(residual)

    def kept(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` derives from the weights, made once for weights as they are; see :mod:`.kept`."""
        return self._kept(name, make)
