"""What the defenses' commands share: a model with its attack, and a table of before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clip_decomp.cli.run import Subject, open_subject

if TYPE_CHECKING:
    from clip_decomp.evaluation import Evaluation


def attacked(
    model: str, data: str | None, attack: str | None, target: str | None, images: int | None, seed: int, device: str
) -> Subject:
    """What a command works on.

    Raises:
        SettingError: no attack is named, and none is on the model's card.
    """
    from clip_decomp.errors import SettingError

    subject = open_subject(model, data, attack, target, images, seed, device)
    if subject.trigger is None:
        raise SettingError(f"{model} carries no attack on its card: name one with --attack.")
    return subject


def compared(before: Evaluation, after: Evaluation) -> list[tuple[str, str]]:
    """Lines of a table: an undefended and a defended model."""
    rows = [("", "undefended  ->  defended")]
    for what, first, second in (
        ("attack success rate", before.attack_success_rate, after.attack_success_rate),
        ("clean accuracy", before.clean_accuracy, after.clean_accuracy),
        ("poisoned accuracy", before.poisoned_accuracy, after.poisoned_accuracy),
    ):
        rows.append((what, f"{first}  ->  {second}"))
    return rows
