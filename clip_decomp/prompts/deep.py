r"""Deep visual prompts: learnable tokens that a vision transformer's blocks see beside their own (VPT-Deep).

Block l of those that are prompted reads ``[class token, patches, prompts_l]`` and passes on what it made of class token
and patches; what it made of the prompts is dropped (Jia et al. 2022; equation 2 of RVPT, Zhang et al. 2025).

Because the outputs at the prompts are dropped, a prompt acts through its key and its value alone, and these are the
same for every image. So there are two ways to run the same function:

* as **tokens** (:meth:`DeepVisualPrompts.attached`, :meth:`DeepVisualPrompts.on`), appended at ``hook_resid_pre`` and
  dropped at ``hook_resid_post``: decompositions, attention maps and every other reading see the prompts on the token
  axis;
* as **keys** (``keys=True``), appended at ``hook_k`` and ``hook_v``: computed once a batch, no queries and no MLPs for
  prompts. This is what training and inference use. Readings see the prompts as attended to, not as attending.

Example:
    >>> import clip_decomp
    >>> model = clip_decomp.load("world/clean")
    >>> prompts = DeepVisualPrompts(model, length=3, blocks=range(2, 8))
    >>> prompts.count, model.decompose(torch.zeros(1, 3, 64, 64)).attention.shape[-1]
    (3456, 65)
    >>> prompts.on(model).decompose(torch.zeros(1, 3, 64, 64)).attention.shape[-1]
    68
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ModelError, SettingError
from ..model import HookedCLIP
from ..models.fingerprint import fingerprint
from ..models.hooked_vit import HookedViT
from .stored import read_prompts, write_prompts

#: Standard deviation of the prompts' start, as in CoOp and its successors.
INITIAL_STD = 0.02


class DeepVisualPrompts(nn.Module):
    """Learnable tokens of some blocks of an image tower.

    Args:
        model: whose tower is prompted; only its sizes are kept, and what tells its weights from others.
        length: prompts a block.
        blocks: the blocks, from zero; negative ones count from the end.
        seed: of the start, normal with a standard deviation of 0.02.

    Attributes:
        prompts: the tokens. ``[block, prompt, d_model]``
        blocks: ascending.

    Raises:
        SettingError: no prompts, no blocks, or blocks that the tower does not have.
        ModelError: a tower without tokens.
    """

    def __init__(self, model: HookedCLIP, length: int, blocks: Sequence[int], seed: int = 0):
        super().__init__()
        tower = _tower(model)
        if length < 1:
            raise SettingError(f"The number of prompts a block must be 1 or more, not {length}.")
        self.blocks = check_blocks(blocks, tower.n_layers)
        self.base, self.base_name = fingerprint(model), model.name
        start = torch.randn(len(self.blocks), length, tower.d_model, generator=torch.Generator().manual_seed(seed))
        self.prompts = nn.Parameter((start * INITIAL_STD).to(model.device))

    @property
    def length(self) -> int:
        """Prompts a block."""
        return self.prompts.shape[1]

    @property
    def count(self) -> int:
        """Number of learnable values."""
        return self.prompts.numel()

    def hooks(self, tower: HookedViT, keys: bool = False) -> list[tuple[str, Callable[..., Tensor]]]:
        """What to attach to the hook points of ``tower``, in TransformerLens's form."""
        pairs = zip(self.blocks, self.prompts, strict=True)
        if keys:
            found = []
            for layer, own in pairs:
                attend = tower.blocks[layer].beside(own)
                found += [(f"blocks.{layer}.attn.hook_{name}", _beside(attend[name])) for name in ("k", "v")]
            return found
        return [hook for layer, own in pairs for hook in _around(layer, own)]

    @contextmanager
    def attached(self, model: HookedCLIP, keys: bool = False) -> Iterator[None]:
        """For the time being, the model's tower sees the prompts."""
        self.check(model)
        tower = _tower(model)
        with tower.hooks(fwd_hooks=self.hooks(tower, keys)):
            yield

    def on(self, model: HookedCLIP, keys: bool = False) -> HookedCLIP:
        """The prompted model: another view of the same weights, whose tower always sees the prompts.

        Methods that decompose, ablate, map or compare layers work on it as on any other model. With ``keys`` it is
        faster, and keys and values of the prompts are those of now: train first.
        """
        self.check(model)
        prompted = HookedCLIP(model.clip, model.tokenizer, model.mean, model.std, f"{model.name}+prompts")
        prompted.card, prompted.trigger = model.card, model.trigger
        with torch.set_grad_enabled(not keys):
            hooks = self.hooks(_tower(prompted), keys)
        for name, hook in hooks:
            prompted.visual.mod_dict[name].add_hook(hook, is_permanent=True)
        return prompted

    def check(self, model: HookedCLIP) -> None:
        """Refuse a model that these prompts were not made for, with a ModelError."""
        _check(model, self.base, self.base_name)

    def save(self, folder: str | Path, **known: Any) -> None:
        """Write the prompts alone: tensors, and a card that identifies their base model and says what is ``known``."""
        card = {"blocks": self.blocks, "length": self.length, "base": self.base_name, "base_sha256": self.base}
        write_prompts(folder, self.prompts, {**card, **known})

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """Prompts that were saved for this model.

        Raises:
            ModelError: not such a folder, damaged files, or prompts of another model.
        """

        def make(card: dict[str, Any]) -> Self:
            _check(model, card["base_sha256"], card["base"])
            return cls(model, card["length"], card["blocks"])

        prompts, values = read_prompts(folder, make, lambda prompts: prompts.prompts)
        prompts.prompts.data.copy_(values)
        return prompts


def check_blocks(blocks: Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Blocks from zero, ascending, each once.

    Raises:
        SettingError: none, or one that the tower does not have.
    """
    for block in blocks:
        if not -n_layers <= block < n_layers:
            raise SettingError(f"There is no block {block} to prompt: this tower has blocks 0 to {n_layers - 1}.")
    chosen = tuple(sorted({block % n_layers for block in blocks}))
    if not chosen:
        raise SettingError("There are no blocks to prompt: name one or more.")
    return chosen


def _check(model: HookedCLIP, base: str, name: str) -> None:
    if fingerprint(model) != base:
        raise ModelError(
            f"These prompts were made for another image tower ({name}, {base[:12]}) than {model.name}'s: prompts only "
            "mean something to the weights they were tuned with."
        )


def _tower(model: HookedCLIP) -> HookedViT:
    if not isinstance(model.visual, HookedViT):
        raise ModelError(f"Visual prompts are tokens, and {type(model.visual).__name__} of {model.name} has none.")
    return model.visual


def _around(layer: int, own: Float[Tensor, "prompt d_model"]) -> Iterator[tuple[str, Callable[..., Tensor]]]:
    """Append before a block and drop behind it."""

    def append(stream: Float[Tensor, "batch token d_model"], hook: object) -> Tensor:
        return torch.cat([stream, own.to(stream).expand(stream.shape[0], -1, -1)], dim=1)

    def drop(stream: Float[Tensor, "batch token d_model"], hook: object) -> Tensor:
        return stream[:, : -len(own)]

    yield f"blocks.{layer}.hook_resid_pre", append
    yield f"blocks.{layer}.hook_resid_post", drop


def _beside(own: Float[Tensor, "prompt head d_head"]) -> Callable[..., Tensor]:
    def append(activation: Float[Tensor, "batch token head d_head"], hook: object) -> Tensor:
        return torch.cat([activation, own.to(activation).expand(activation.shape[0], -1, -1, -1)], dim=1)

    return append
