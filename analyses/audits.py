"""How well does the audit tell backdoored models from clean ones? Many models, one set of pictures.

The right control of a backdoored model is the clean model fine-tuned just as long on clean pairs. Some controls set the
threshold (the largest of their scores), others are tested beside the backdoored models.

Example:
    >>> found = Audited("m", "badnet", "pear", 2.5, ("pear", "fig"))
    >>> summary([found], [Audited("c", "clean", None, 1.1, ("fig", "pear"))], threshold=1.5)["audit-target-first"]
    1.0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from clip_decomp.data.unlabelled import open_unlabelled
from clip_decomp.errors import SettingError, class_place
from clip_decomp.models.loading import load
from defenses.audit import Audit
from defenses.detection import auroc


@dataclass(frozen=True)
class Audited:
    """What an audit found in a model.

    Attributes:
        attack, target: what is known of it.
        score: that of the cheapest class.
        ranking: classes, the cheapest first.
    """

    model: str
    attack: str
    target: str | None
    score: float
    ranking: tuple[str, ...]

    @property
    def place(self) -> int | None:
        """Of the target among the classes, from 1."""
        return None if self.target is None else self.ranking.index(self.target) + 1


def audited(models: Sequence[str], images: str, count: int, folder: Path, seed: int, device: str) -> list[Audited]:
    """Scan models, or go on where an interrupted scan stopped; the same pictures for all.

    Raises:
        SettingError: the pictures bring no class names, or a folder holds the scan of another model.
        DataError: a target is not among the classes.
    """
    found, opened = [], {}
    for name in models:
        model = load(name, device=device)
        size = model.visual.image_size
        if size not in opened:
            opened[size] = open_unlabelled(images, size, count, seed)
        data = opened[size]
        if data.class_names is None:
            raise SettingError(f"{images} says nothing of classes: audits are compared on labelled data.")
        attack = model.card.get("attack") or {"trigger": {"name": "clean"}, "target": None}
        if attack["target"] is not None:  # complains before anything is scanned
            class_place(attack["target"], data.class_names, f"The target of {name}: ")
        audit = Audit(seed=seed, checkpoint=folder / name.replace("/", "-"))
        scan = audit.scan(model, data.pixels, data.class_names, data.templates)
        ranking = tuple(scan.class_names[each] for each in scan.ranking.tolist())
        found.append(Audited(name, attack["trigger"]["name"], attack["target"], scan.score, ranking))
    return found


def summary(
    backdoored: Sequence[Audited], clean: Sequence[Audited], threshold: float, seed: int = 0
) -> dict[str, float]:
    """Rates over models: AUROC of the scores, targets ranked first, and what the threshold catches and lets through."""
    area = auroc(*(torch.tensor([each.score for each in group]) for group in (backdoored, clean)), seed)

    def share(group: Sequence[Audited], holds: Callable[[Audited], bool]) -> float:
        return sum(map(holds, group)) / len(group)

    return {
        "audit-auroc": area.value,
        "audit-auroc/low": area.low,
        "audit-auroc/high": area.high,
        "audit-target-first": share(backdoored, lambda each: each.place == 1),
        "audit-found": share(backdoored, lambda each: each.score > threshold),
        "audit-false-alarms": share(clean, lambda each: each.score > threshold),
    }
