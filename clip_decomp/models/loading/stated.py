"""What weights do not hold but need: the activation and the pixel normalization. Detected or demanded, never guessed.

A published tag, a configuration, the program in an archive or a ``-quickgelu`` name state them; what the caller asks
for must agree. Of a bare file nothing is stated: where all published weights of an architecture agree, it is taken to
be like them; where they do not, the caller has to say.

Example:
    >>> activation("ViT-B-32", None, asked=True), activation("ViT-B-32", ("the tag 'openai'", True), asked=None)
    (True, True)
    >>> activation("ViT-B-32", None, asked=None)
    Traceback (most recent call last):
    clip_decomp.errors.ModelError: ViT-B-32 exists with QuickGELU and with GELU, ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import open_clip
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from ...errors import ModelError, SettingError

_SUFFIX = "-quickgelu"
#: Who states something, and what.
Statement = tuple[str, bool]


@dataclass(frozen=True)
class Normalization:
    """What pixels in 0..1 are shifted and divided by.

    Raises:
        SettingError: not three finite numbers each, or a deviation that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise SettingError(
                    f"{name}={values}: a normalization has a finite number for each of the three colors, and "
                    "deviations above 0."
                )
            object.__setattr__(self, name, values)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Normalization:
        """From a configuration's ``mean`` and ``std``, OpenAI's where it has none."""
        mean, std = config.get("mean"), config.get("std")
        return cls(mean or open_clip.OPENAI_DATASET_MEAN, std or open_clip.OPENAI_DATASET_STD)


def activation(name: str, stated: Statement | None, asked: bool | None) -> bool | None:
    """Whether an open_clip architecture is to be built with QuickGELU; None leaves it as its configuration has it.

    Args:
        stated: by the source of the weights.
        asked: by the caller.

    Raises:
        ModelError: source, name and caller disagree, or nobody says although the architecture exists with both.
    """
    statements = [] if stated is None else [stated]
    if name.endswith(_SUFFIX):
        statements.append((f"the name {name!r}", True))
    if asked is not None:
        statements.append((f"quick_gelu={asked}", asked))
    for who, what in statements[1:]:
        if what != statements[0][1]:
            raise ModelError(
                f"{statements[0][0]} says {_called(statements[0][1])}, but {who} says {_called(what)}: with the wrong "
                "activation every number would be wrong. Ask for what the weights were trained with."
            )
    if statements:
        return statements[0][1]
    if _both(name):
        raise ModelError(
            f"{name} exists with QuickGELU and with GELU, and this file does not say which it was trained with: pass "
            f"quick_gelu=True (--quick-gelu) for OpenAI's, DFN's and MetaCLIP's weights and those tuned from them, "
            f"quick_gelu=False (--no-quick-gelu) for LAION's, DataComp's and what open_clip trained from scratch as "
            f"{name}. When in doubt, the right one has the higher zero-shot accuracy."
        )
    return None


def normalization(
    name: str, stated: Normalization | None, mean: Sequence[float] | None, std: Sequence[float] | None, who: str
) -> Normalization:
    """The pixel normalization of an architecture's weights.

    Args:
        stated: by the source of the weights, which is ``who``.
        mean, std: asked for by the caller.

    Raises:
        ModelError: source and caller disagree, or nobody says although published weights differ.
    """
    if stated is not None:
        agree(stated, mean, std, who)
        return stated
    published = published_normalizations(name)
    if len(published) > 1 and (mean is None or std is None):
        listed = " or ".join(f"mean={each.mean}, std={each.std} ({tags[0]})" for each, tags in published.items())
        raise ModelError(
            f"Published weights of {name} want pixels normalized in different ways, and {who} does not say how: pass "
            f"mean= and std=, {listed}."
        )
    usual = next(iter(published), Normalization.of({}))
    return Normalization(tuple(mean or usual.mean), tuple(std or usual.std))


def agree(stated: Normalization, mean: Sequence[float] | None, std: Sequence[float] | None, who: str) -> None:
    """Refuse a normalization that contradicts what is stated, with a ModelError."""
    asked = Normalization(tuple(mean or stated.mean), tuple(std or stated.std))
    for name in ("mean", "std"):
        given, known = getattr(asked, name), getattr(stated, name)
        if any(abs(one - other) > 1e-3 for one, other in zip(given, known, strict=True)):
            raise ModelError(f"{who} says {name}={known}, but {name}={given} was asked for: leave {name}= out.")


def published_normalizations(name: str) -> dict[Normalization, list[str]]:
    """The normalizations of an architecture's published weights, with their tags."""
    found: dict[Normalization, list[str]] = {}
    plain = name.removesuffix(_SUFFIX)
    for variant in (plain, plain + _SUFFIX):
        for tag in list_pretrained_tags_by_model(variant):
            found.setdefault(Normalization.of(get_pretrained_cfg(variant, tag)), []).append(tag)
    return found


def _both(name: str) -> bool:
    """Whether an architecture has weights of both activations, by the names and by the published tags."""
    if name + _SUFFIX in open_clip.list_models():
        return True
    tags = list_pretrained_tags_by_model(name)
    own = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    return any(bool(get_pretrained_cfg(name, tag).get("quick_gelu", False)) != own for tag in tags)


def _called(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"
