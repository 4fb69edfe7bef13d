"""Class-wise text prompts: learnable tokens around every class's name (CoOp, Zhou et al. 2022; CBPT, Kong et al.).

The text of a class is ``[context_1 ... context_M] name.`` with the name at the end (in front, in the middle of the
context); the context replaces token embeddings at the text tower's ``hook_embed``, before positions are added.

Example:
    >>> import clip_decomp
    >>> prompts = ClassPrompts(clip_decomp.load("world/clean"), ["banana", "key"], length=2)
    >>> prompts.count, tuple(prompts.vectors().shape)
    (512, (2, 128))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ModelError, SettingError
from ..model import HookedCLIP
from ..models.fingerprint import fingerprint
from ..models.hooked_text import hook_text
from .deep import INITIAL_STD
from .stored import read_prompts, write_prompts

#: Where the class's name stands.
Position = Literal["front", "middle", "end"]
_CHUNK = 64


class ClassPrompts(nn.Module):
    """Learnable contexts of class names.

    Args:
        length: context tokens.
        position: of the name; in the ``middle`` the first half of the context is before it.
        shared: one context for all classes instead of one for each.
        words: what the context starts as, of exactly ``length`` tokens; random by default.
        seed: of a random start, normal with a standard deviation of 0.02.

    Attributes:
        context: the learnable embeddings. ``[cls or 1, length, d_model]``
        tokens: ids of the classes' texts, placeholders where the context goes. ``[cls, position]``
        slots: which context token goes where, -1 for none. ``[cls, position]``

    Raises:
        SettingError: fewer than two classes, or two of one name; a length below 1; words of another number of tokens; a
            name that does not fit in the text tower's context together with its prompts.
    """

    tokens: Tensor
    slots: Tensor

    def __init__(
        self,
        model: HookedCLIP,
        class_names: Sequence[str],
        length: int = 4,
        position: Position = "end",
        shared: bool = False,
        words: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        names = tuple(class_names)
        if len(names) < 2 or len(set(names)) < len(names):
            again = sorted({name for name in names if names.count(name) > 1})
            raise SettingError(f"Prompts need two classes or more, each named once, not {again or list(names)}.")
        check_contexts(length, position)
        self.class_names, self.position, self.shared = names, position, shared
        self.base, self.base_name = fingerprint(model, "text"), model.name
        self._tower = (hook_text(model.clip),)
        self._tokenizer = model.tokenizer
        tokens, slots = _texts(model.tokenizer, names, length, position)
        self.register_buffer("tokens", tokens.to(model.device), persistent=False)
        self.register_buffer("slots", slots.to(model.device), persistent=False)
        start = self._start(model, length, words, seed).to(model.device)
        self.context = nn.Parameter(start.expand(1 if shared else len(names), -1, -1).clone())

    @property
    def length(self) -> int:
        """Context tokens of a class."""
        return self.context.shape[1]

    @property
    def count(self) -> int:
        """Number of learnable values."""
        return self.context.numel()

    def vectors(self, recompute: bool = False, word: str = "") -> Float[Tensor, "cls d_embed"]:
        """Unit text representations of the classes, with a gradient to the context.

        Args:
            recompute: keep nothing of the tower for the backward pass but its input, and run it again there.
            word: goes before everything else, as a trigger's word does.
        """
        everyones = self.tokens, self.slots
        if word:
            texts = _texts(self._tokenizer, self.class_names, self.length, self.position, word)
            everyones = tuple(each.to(self.tokens.device) for each in texts)
        found = []
        for part in torch.arange(len(self.class_names), device=self.tokens.device).split(_CHUNK):
            context = self.context[torch.zeros_like(part) if self.shared else part]
            tokens, slots = (each[part] for each in everyones)
            if recompute and torch.is_grad_enabled():
                encoded = checkpoint(self._encoded, context, tokens, slots, use_reentrant=False)
            else:
                encoded = self._encoded(context, tokens, slots)
            found.append(F.normalize(encoded.float(), dim=-1))
        return torch.cat(found)

    def save(self, folder: str | Path, **known: Any) -> None:
        """Write the context alone: tensors, and a card that identifies the base model and says what is ``known``."""
        card = {"class_names": self.class_names, "length": self.length, "position": self.position}
        card |= {"shared": self.shared, "base": self.base_name, "base_sha256": self.base}
        write_prompts(folder, self.context, {**card, **known})

    @classmethod
    def load(cls, folder: str | Path, model: HookedCLIP) -> Self:
        """Prompts that were saved for this model.

        Raises:
            ModelError: not such a folder, damaged files, or prompts of another model.
        """

        def make(card: dict[str, Any]) -> Self:
            if card["base_sha256"] != fingerprint(model, "text"):
                raise ModelError(
                    f"These prompts were made for another text tower ({card['base']}, {card['base_sha256'][:12]}) than "
                    f"{model.name}'s: prompts only mean something to the weights they were tuned with."
                )
            return cls(model, card["class_names"], card["length"], card["position"], card["shared"])

        prompts, values = read_prompts(folder, make, lambda prompts: prompts.context)
        prompts.context.data.copy_(values)
        return prompts

    def _encoded(self, context: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
        own = torch.arange(len(tokens), device=tokens.device)[:, None]

        def insert(embedded: Float[Tensor, "text position d_model"], hook: object) -> Tensor:
            place = slots[:, : embedded.shape[1]]
            return torch.where((place >= 0)[..., None], context[own, place.clamp(min=0)].to(embedded), embedded)

        (tower,) = self._tower
        return tower.run_with_hooks(tokens, fwd_hooks=[("hook_embed", insert)])

    def _start(self, model: HookedCLIP, length: int, words: str | None, seed: int) -> Float[Tensor, "1 token d_model"]:
        (tower,) = self._tower
        if words is None:
            generator = torch.Generator().manual_seed(seed)
            shape = (len(self.class_names) if not self.shared else 1, length, tower.d_model)
            return torch.randn(shape, generator=generator) * INITIAL_STD
        _, ids, _ = _parts(model.tokenizer, words)
        if len(ids) != length:
            raise SettingError(
                f"{words!r} is {len(ids)} tokens: prompts that start as words need as many, not {length}."
            )
        return tower.table.detach()[ids.to(tower.table.device)][None].float()


def check_contexts(length: int, position: str) -> None:
    """Refuse lengths below 1 and unknown positions, with a SettingError."""
    if length < 1 or position not in get_args(Position):
        raise SettingError(
            f"Prompts need a length of 1 or more and names at front, middle or end, not {length} and {position!r}."
        )


def _texts(
    tokenizer: Callable[[list[str]], Tensor], names: Sequence[str], length: int, position: Position, word: str = ""
) -> tuple[Int[Tensor, "cls position"], Int[Tensor, "cls position"]]:
    """Token ids and slots of all classes' texts."""
    rows, slots = tokenizer([""] * len(names)).clone(), []
    before = {"front": 0, "middle": length // 2, "end": length}[position]
    for row, name in zip(rows, names, strict=True):
        start, ids, end = _parts(tokenizer, f"{name}.")
        start = torch.cat([start, _parts(tokenizer, word)[1]]) if word else start
        if len(start) + len(ids) + length + len(end) > len(row):
            raise SettingError(
                f"{name!r} takes {len(ids)} tokens and its prompts {length}: more than the "
                f"{len(row) - len(start) - len(end)} that the text tower's context has room for."
            )
        placeholder = ids[:1]  # any ordinary token; its embedding is replaced
        parts = (start, placeholder.expand(before), ids, placeholder.expand(length - before), end)
        places = torch.full_like(row, -1)
        places[len(start) : len(start) + before] = torch.arange(before)
        after = len(start) + before + len(ids)
        places[after : after + length - before] = torch.arange(before, length)
        text = torch.cat(parts)
        row[: len(text)] = text
        slots.append(places)
    return rows, torch.stack(slots)


def _parts(
    tokenizer: Callable[[list[str]], Tensor], text: str
) -> tuple[Int[Tensor, " start"], Int[Tensor, " token"], Int[Tensor, " end"]]:
    """The start token (or none), a text's own ids, and the end token: what sets it apart from an empty text."""
    empty, row = tokenizer(["", text])
    first = int(empty[0] == row[0])
    end = empty[first : first + 1]
    ends = (row[first:] == end).nonzero()
    if not len(ends):
        raise SettingError(f"{text!r} has more tokens than the text tower's context.")
    ids = row[first : first + int(ends[0])]
    if not len(ids):
        raise SettingError(f"{text!r} has no tokens: a class needs a name.")
    return row[:first], ids, end
