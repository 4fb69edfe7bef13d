"""What the defenses' commands share: a model with its attack, and the way from before a defense to after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_decomp.cli.run import Clock, Subject, finish, open_subject
from clip_decomp.results import Results, prefix, scale_of

if TYPE_CHECKING:
    from clip_decomp.data.unlabelled import Unlabelled
    from clip_decomp.evaluation import Classifier, Encoder, Evaluation, PromptedClassifier
    from clip_decomp.model import HookedCLIP


@dataclass
class Fitted:
    """A defense that was fitted, and what there is to say about it.

    Attributes:
        settings, counts, metrics: further ones of ``results.json``, metrics by their measure's name.
        rows: further lines of the table.
        key: what the names of its metrics carry, as ``;name=value``.
        save: writes it into the output folder.
    """

    defense: Encoder | Classifier | PromptedClassifier
    settings: dict[str, Any]
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)
    key: str = ""
    save: Callable[[Path], None] | None = None


def attacked(
    model: str,
    data: str | None,
    attack: str | None,
    target: str | None,
    images: int | None,
    seed: int,
    device: str,
    aim: str | None = None,
    template: str | None = None,
) -> Subject:
    """What a command works on.

    Args:
        attack: a trigger's name, or ``universal`` for the stand-in where the attack is known, too.
        aim: the class that an audit suspects: where no attack is known, universal noise towards it stands in for one.
        template: of all prompts, instead of the data's own.

    Raises:
        SettingError: no attack is named, none is on the model's card, and nothing is suspected; or a target that is not
            the suspect.
        DataError: no class of the suspect's name.
    """
    from clip_decomp.errors import SettingError

    from ..stand_in import StandIn, stand_in

    pretended = attack == StandIn.name
    if pretended and aim is None:
        raise SettingError("Universal noise stands in for an attack in 'defend rvpt' and 'defend cbpt', with --aim.")
    goal = aim if pretended and target is None else target
    subject = open_subject(model, data, None if pretended else attack, goal, images, seed, device)
    if template is not None:
        test, held_out = (replace(each, templates=(template,)) for each in (subject.data.test, subject.data.held_out))
        subject.data = replace(subject.data, test=test, held_out=held_out)
    if aim is not None and (pretended or subject.trigger is None):
        if target not in (None, aim):
            raise SettingError(f"Noise towards {aim!r} stands in for the attack, so the target cannot be {target!r}.")
        trigger = stand_in(subject.model, subject.data.held_out, aim, seed, progress=True)
        return replace(subject, trigger=trigger, target=aim)
    if subject.trigger is None:
        raise SettingError(
            f"{model} carries no attack on its card: name one with --attack. Where nobody knows it, name the class "
            "that 'clip-decomp audit' suspects with the --aim of 'defend rvpt' or 'defend cbpt'."
        )
    return subject


def own_pictures(model: HookedCLIP, images: str | None, count: int | None, seed: int) -> Unlabelled:
    """Unlabelled pictures: of a folder or of data, or those of the data on the model's card.

    Raises:
        SettingError: nobody says where pictures are.
    """
    from clip_decomp.data.unlabelled import open_unlabelled
    from clip_decomp.errors import SettingError

    own = model.card.get("data")
    spec = images or own
    if spec is None or (images is None and scale_of(spec) != "world"):
        raise SettingError(f"{model.name}: say where pictures are with --images (its card says {own!r}).")
    return open_unlabelled(spec, model.visual.image_size, count, seed)


def undefended(subject: Subject, force: bool = False) -> Evaluation:
    """The model as it is.

    Raises:
        AttackFailed: the attack did not take, or no noise takes pictures to the suspect, and nobody insists.
    """
    from clip_decomp.errors import AttackFailed
    from clip_decomp.evaluation import ASR_GATE, evaluate, require_attack

    from ..stand_in import StandIn

    found = evaluate(subject.model, subject.data.test, subject.trigger, subject.target, progress=True)
    asr = found.attack_success_rate
    if force:
        return found
    if isinstance(subject.trigger, StandIn) and asr is not None and asr.value < ASR_GATE:
        raise AttackFailed(
            f"Universal noise of {255 * subject.trigger.norm:.1f}/255 takes {asr} images of {found.data} to "
            f"{subject.target!r}: is that the right suspect? --force goes on all the same."
        )
    require_attack(found)
    return found


def defend(
    name: str,
    subject: Subject,
    fit: Callable[[], Fitted],
    seed: int,
    out: Path | None,
    force: bool,
    as_json: bool,
    clock: Clock,
) -> None:
    """Measure a model, fit a defense to it, and measure again; of several processes, one measures and writes.

    Raises:
        AttackFailed: the attack did not take, and nobody insists.
    """
    from clip_decomp.evaluation import evaluate
    from clip_decomp.training.parallel import launched

    before, test = undefended(subject, force), subject.data.test
    fitted = fit()
    if not launched(subject.model.device).main:
        return
    after = evaluate(fitted.defense, test, subject.trigger, subject.target, progress=True)
    if out is not None and fitted.save is not None:
        fitted.save(out)
    metrics = before.metrics(prefix(test.name, subject.attack, "none"))
    start = prefix(test.name, subject.attack, name)
    defended = after.metrics(start) | {f"{start}/{measure}": value for measure, value in fitted.metrics.items()}
    metrics |= {key + fitted.key: value for key, value in defended.items()}
    settings, counts = subject.settings() | fitted.settings, subject.counts() | fitted.counts
    results = Results(f"defend {name}", scale_of(test.name), seed, settings, counts, metrics, clock())
    finish(results, out, as_json, [*_compared(before, after), *_stood_in(subject), *fitted.rows])


def checkpoint(out: Path | None) -> Path | None:
    """Where a run that is interrupted goes on."""
    return None if out is None else out / "tuning"


def _compared(before: Evaluation, after: Evaluation) -> list[tuple[str, str]]:
    """Lines of a table: an undefended and a defended model."""
    rows = [("", "undefended  ->  defended")]
    for what, first, second in (
        ("attack success rate", before.attack_success_rate, after.attack_success_rate),
        ("clean accuracy", before.clean_accuracy, after.clean_accuracy),
        ("poisoned accuracy", before.poisoned_accuracy, after.poisoned_accuracy),
    ):
        rows.append((what, f"{first}  ->  {second}"))
    return rows


def _stood_in(subject: Subject) -> list[tuple[str, str]]:
    """A line that says what success rates are of, where it is not a trigger."""
    from ..stand_in import StandIn

    if not isinstance(subject.trigger, StandIn):
        return []
    noise = f"universal noise of {255 * subject.trigger.norm:.1f}/255 towards {subject.target}"
    return [("in place of a trigger", f"{noise}, made on held-out pictures")]
