"""Reads a head's data: one pass for what it writes, two for what depends on it, and the shown pictures once more.

Of every picture only the coordinates in the head's own space stay in memory (``d_head`` numbers), clean and triggered;
texts, role, MMD and pushes toward any text follow from them.

Limits: the texts name what varies between pictures. Pushes, texts and MMD are about what the head writes directly;
only the total effect knows what later layers make of it. MMD takes a picture and its triggered copy as partners, which
is exact for such pairs and finds smaller differences than mixing all pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..ablation.parts import part_effects
from ..attacks.triggers import Trigger
from ..attacks.triggers.base import SeededTrigger
from ..contributions import pictures
from ..data.sets import ImageSet
from ..errors import DataError, SettingError
from ..evaluation import rate
from ..methods.mmd import Sigma, mmd_test
from ..methods.roles import RoleChange, compare_roles
from ..methods.textspan import TextSpan, textspan
from ..moments import Moments
from ..results import scale_of
from ..texts import TextPool, encode_pool, text_pool, world_pool
from ..zeroshot import class_vectors
from .head import Head
from .result import Ablated, HeadReport, Side
from .views import Candidate, Passed, make_views

#: Parts that clean and triggered pictures are split into to see whether the head's role changed.
_FOLDS = 8


@torch.no_grad()
def inspect_head(
    head: Head,
    data: ImageSet,
    held_out: ImageSet,
    trigger: Trigger | None = None,
    target: str | None = None,
    pool: TextPool | None = None,
    texts: Sequence[str] = (),
    n_images: int = 8,
    n_texts: int = 10,
    rank: int = 80,
    sigma: Sigma = "median",
    permutations: int = 200,
    seed: int = 0,
    progress: bool = False,
) -> HeadReport:
    """Everything about a head.

    Args:
        held_out: clean pictures whose mean replaces the head when it is ablated.
        target: the attack's target class, the data set's by default.
        pool: texts to choose the head's from; those of the embedded world for its pictures, else the general ones.
        texts: more texts to show pictures for.
        n_images: pictures most, and as many least, pushed toward a text.
        n_texts: texts chosen by TEXTSPAN, at most; ``rank`` is its rank.
        sigma: bandwidth of the MMD's kernel; ``permutations`` of its p-value, ``seed`` of those.

    Raises:
        SettingError: fewer than one picture to show, or a trigger without a target.
        DataError: too few pictures to show or for the rank, constant contributions, values that are not finite, no
            such target class, or texts that are blank or repeat.
    """
    goal = _goal(data, trigger, target)
    _check(head, data, trigger, n_images, rank)
    pool = pool or (world_pool() if scale_of(data.name) == "world" else text_pool())
    features = encode_pool(head.model, pool, progress="texts" if progress else None).cpu()
    given = _given(head, data, goal, texts)
    passed = _pass(head, data, trigger, "contributions" if progress else None)
    explained, roles = _roles(passed, features, pool, n_texts, rank)
    chosen = [("clean", explained.indices), *([("triggered", roles.triggered.indices)] if roles else [])]
    own = [Candidate(pool.texts[k], source, features[k]) for source, found in chosen for k in found.tolist()]
    test = None
    if roles is not None:
        both = passed.coordinates["clean"], passed.coordinates["triggered"]
        test = mmd_test(*both, sigma=sigma, permutations=permutations, seed=seed, paired=True)
    views, shown = make_views(head, data, trigger, passed, _distinct([*own, *given]), n_images)
    return HeadReport(
        name=head.name,
        model=head.model.name,
        data=data.name,
        count=len(passed.labels),
        held_out=len(held_out),
        skipped=tuple(dict.fromkeys([*data.skipped, *held_out.skipped])),
        trigger=None if trigger is None else trigger.settings(),
        target=goal,
        seed=seed,
        pool=pool,
        explained=explained,
        roles=roles,
        mmd=test,
        ablated=_ablate(head, data, held_out, trigger, goal, passed.labels, progress),
        views=views,
        pictures=shown,
        norm=passed.norm,
    )


def _goal(data: ImageSet, trigger: Trigger | None, target: str | None) -> str | None:
    goal = target or (data.target if trigger is not None else None)
    if goal is not None:
        data.class_index(goal)
    elif trigger is not None:
        raise SettingError(f"{data.name} has no target class for {trigger.name}: name one.")
    return goal


def _check(head: Head, data: ImageSet, trigger: Trigger | None, n_images: int, rank: int) -> None:
    if n_images < 1:
        raise SettingError(f"A page shows one picture or more, not {n_images}.")
    if len(data) < 2 * n_images:
        raise DataError(f"{data.name}: {len(data)} images cannot show the {n_images} most and {n_images} least pushed.")
    tower = head.model.visual
    needed = min(rank, tower.blocks[0].attn.d_head * tower.readout.rows, tower.d_embed)
    half = _FOLDS // 2 * (len(data) // _FOLDS)
    if trigger is not None and half < needed:
        least = _FOLDS * -(-needed // (_FOLDS // 2))
        raise DataError(
            f"{data.name}: halves of {len(data)} images cannot span rank {needed}, which comparing the role of "
            f"{head.name} with and without the trigger takes: give {least} images or more, or a lower rank."
        )


def _given(head: Head, data: ImageSet, goal: str | None, texts: Sequence[str]) -> list[Candidate]:
    """The target's class text and the texts that were asked for."""
    found = []
    if goal is not None:
        name = data.templates[0].replace("{}", goal) if len(data.templates) == 1 else f"{goal} (all templates)"
        found.append(Candidate(name, "target", class_vectors(head.model, [goal], data.templates)[0].cpu()))
    if texts:
        pool = TextPool(tuple(texts), ("given",) * len(texts))
        features = encode_pool(head.model, pool).cpu()
        found += [Candidate(text, "given", feature) for text, feature in zip(pool.texts, features, strict=True)]
    return found


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """A text that occurs twice keeps its first source."""
    found: dict[str, Candidate] = {}
    for each in candidates:
        found.setdefault(each.text, each)
    return list(found.values())


def _pass(head: Head, data: ImageSet, trigger: Trigger | None, progress: str | None) -> Passed:
    model, basis = head.model, None
    sides: dict[Side, list[Tensor]] = {"clean": []} if trigger is None else {"clean": [], "triggered": []}
    labels: list[Tensor] = []
    numbers: list[Tensor] = []
    length = 0.0
    for pixels, truths, places in pictures(data, None, progress=progress):
        labels.append(truths)
        numbers.append(places)
        for side, kept in sides.items():
            images = pixels if side == "clean" or trigger is None else trigger(pixels, places)
            dec = model.decompose(model.normalize(images))
            basis = dec.head_basis if basis is None else basis
            kept.append(dec.coordinates(basis)[:, head.layer, head.head].cpu())
            length += float(dec.norm.sum()) if side == "clean" else 0.0
    assert basis is not None  # pictures() raises when there are none
    truths = torch.cat(labels)
    return Passed(
        coordinates={side: torch.cat(kept) for side, kept in sides.items()},
        basis=basis[head.layer, head.head].cpu(),
        labels=truths,
        numbers=torch.cat(numbers),
        norm=length / len(truths),
    )


def _roles(
    passed: Passed, features: Float[Tensor, "text d_embed"], pool: TextPool, n_texts: int, rank: int
) -> tuple[TextSpan, RoleChange | None]:
    def parts(side: Side, folds: int) -> list[Moments]:
        return [Moments.of(passed.coordinates[side][fold::folds], passed.basis) for fold in range(folds)]

    if "triggered" not in passed.coordinates:
        return textspan(parts("clean", 1)[0], features, n_texts, rank, pool.texts), None
    sides = parts("clean", _FOLDS), parts("triggered", _FOLDS)
    roles = compare_roles(*sides, features, n_texts, rank, pool.texts)
    return roles.clean, roles


def _ablate(
    head: Head,
    data: ImageSet,
    held_out: ImageSet,
    trigger: Trigger | None,
    goal: str | None,
    labels: Int[Tensor, " image"],
    progress: bool,
) -> tuple[Ablated, ...]:
    if trigger is None or goal is None:
        # Success of no attack, toward a class that not every picture has; only the accuracy is used.
        goal = next(name for k, name in enumerate(data.class_names) if k != int(labels[0]))
    others = int((labels != data.class_index(goal)).sum())
    asked = trigger or _NoTrigger()

    def counted(effect, accuracy: float, success: float) -> Ablated:
        shares = (rate(round(share * count), count) for share, count in ((accuracy, len(labels)), (success, others)))
        clean, attack = shares
        return Ablated(effect, clean, None if trigger is None else attack)

    found: list[Ablated] = []
    for effect in ("direct", "total"):
        label = f"{effect} effect" if progress else None
        result = part_effects(head.model, data, held_out, asked, [head.name], goal, effect, progress=label)
        if not found:
            found.append(counted("none", *result.baseline[:2]))
        found.append(counted(effect, result.clean_accuracy[0], result.attack_success_rate[0]))
    return tuple(found)


@dataclass(frozen=True)
class _NoTrigger(SeededTrigger):
    """Leaves pictures as they are."""

    name: ClassVar[str] = "none"

    def __call__(
        self, images: Float[Tensor, "batch 3 row column"], numbers: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch 3 row column"]:
        return images
