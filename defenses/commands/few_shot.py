"""Defenses tuned on a few labelled pictures on the command line: RVPT, VPT, CBPT and the linear probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Subject, Target

from .subjects import Fitted, attacked, checkpoint, defend

if TYPE_CHECKING:
    from ..cbpt import CBPT
    from ..linear_probe import LinearProbe
    from ..rvpt import RVPT

TuneOn = Annotated[
    str | None,
    typer.Option(
        help="Data to tune on: its training part; where it has none all of it, or what it holds out if it is measured "
        "on, too. The test data by default."
    ),
]
Shots = Annotated[int, typer.Option(help="Training pictures a class.")]
Length = Annotated[int, typer.Option(help="Prompts a block.")]
Depth = Annotated[int | None, typer.Option(help="Prompted blocks; all but the first quarter by default.")]
CountFrom = Annotated[str, typer.Option(help="Count prompted blocks from the output or from the input.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training pictures.")]
BatchSize = Annotated[int, typer.Option(help="Pictures a step.")]
Rate = Annotated[float, typer.Option("--lr", help="Learning rate of SGD, for losses summed over the batch.")]
Template = Annotated[str | None, typer.Option(help="Template of all prompts, '{}' the class; the data's by default.")]
Aim = Annotated[
    str | None,
    typer.Option(
        help="Learn from universal noise towards this class, which 'clip-decomp audit' suspects. Other such noise is "
        "measured with where no attack is known, or with --attack universal."
    ),
]
Without = Annotated[bool, typer.Option("--without-target", help="Leave the target class out of tuning (woTC).")]


def rvpt(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    aim: Aim = None,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of the feature-repelling loss; 2 by default, -30 with --aim.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Mean cosine below which nothing is repelled.")] = -1.0,
    shots: Shots = 16,
    length: Length = 50,
    depth: Depth = None,
    count_from: CountFrom = "output",
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training pictures; 50 by default, 6 with --aim.")
    ] = None,
    batch_size: BatchSize = 32,
    lr: Annotated[
        float | None,
        typer.Option(help="Of SGD, for losses summed over the batch; 0.002 by default, 0.001 with --aim."),
    ] = None,
    rounds: Annotated[
        int,
        typer.Option(help="With --aim, how often prompts are tuned, the later times also against noise of their own."),
    ] = 1,
    template: Template = None,
    without_target: Without = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """RVPT: tune visual prompts on a few clean pictures to keep the classes apart and repel everything else."""
    from ..rvpt import RVPT

    clock = Clock()
    settings: dict[str, Any] = {"margin": margin, "shots": shots, "length": length, "depth": depth, "seed": seed}
    settings |= {"count_from": count_from, "batch_size": batch_size, "rounds": rounds}
    settings |= {"checkpoint": checkpoint(out)} | _given(alpha=alpha, epochs=epochs, lr=lr)
    defense = RVPT(**settings) if aim is None else RVPT.aimed(aim, **settings)
    subject = attacked(model, data, attack, target, images, seed, device, aim, template)
    _tuned("rvpt", defense, subject, tune_on, template, without_target, seed, out, force, as_json, clock)


def vpt(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    shots: Shots = 16,
    length: Length = 50,
    depth: Depth = None,
    count_from: CountFrom = "output",
    epochs: Epochs = 50,
    batch_size: BatchSize = 32,
    lr: Rate = 0.002,
    template: Template = None,
    without_target: Without = False,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """VPT: the same prompts, tuned to keep the classes apart alone (RVPT with alpha 0)."""
    from ..rvpt import RVPT

    clock = Clock()
    settings = {"alpha": 0.0, "shots": shots, "length": length, "depth": depth}
    settings |= {"count_from": count_from, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    defense = RVPT(**settings, seed=seed, checkpoint=checkpoint(out))
    subject = attacked(model, data, attack, target, images, seed, device, template=template)
    _tuned("vpt", defense, subject, tune_on, template, without_target, seed, out, force, as_json, clock)


def cbpt(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    shots: Shots = 16,
    length: Annotated[int, typer.Option(help="Context tokens a class.")] = 4,
    position: Annotated[str, typer.Option(help="Where the class's name stands: front, middle or end.")] = "end",
    shared: Annotated[bool, typer.Option("--shared", help="One context for all classes.")] = False,
    aim: Aim = None,
    words: Annotated[
        str | None, typer.Option(help="What contexts start as; random by default, 'a photo of a' with --aim.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training pictures; 20 by default, 60 with --aim.")
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(help="First epochs, on the clean cross-entropy alone; 5 by default, none with --aim."),
    ] = None,
    batch_size: BatchSize = 32,
    lr: Annotated[
        float | None,
        typer.Option(help="Of SGD, for losses divided by the batch size; 0.002 by default, 0.02 with --aim."),
    ] = None,
    weight_ce: Annotated[float, typer.Option(help="Of the cross-entropies.")] = 1.0,
    weight_noisy: Annotated[
        float | None,
        typer.Option(help="Of perturbed pictures' cross-entropy within them; 1 by default, 0 with --aim."),
    ] = None,
    weight_bd: Annotated[
        float | None, typer.Option(help="Of the backdoor loss; 0.4 by default, 0.2 with --aim.")
    ] = None,
    weight_align: Annotated[float | None, typer.Option(help="Of the alignment; 0.4 by default, 0 with --aim.")] = None,
    norm: Annotated[
        str | None, typer.Option(help="Of the inverted triggers: l2, the default, or linf. Not with --aim.")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Their largest norm, in pixel units (0..1); 2 for l2, 8/255 for linf. Not with --aim."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of inversion, a picture; 10 by default. Not with --aim.")] = None,
    positives: Annotated[
        str | None,
        typer.Option(help="Pictures aimed at: farthest, the default, nearest or random. Not with --aim."),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """CBPT: tune class-wise text prompts against inverted triggers, on a few clean pictures."""
    from ..cbpt import CBPT
    from ..inversion import Inversion

    clock = Clock()
    settings: dict[str, Any] = {"shots": shots, "length": length, "position": position, "shared": shared}
    settings |= {"batch_size": batch_size, "weight_ce": weight_ce, "seed": seed, "checkpoint": checkpoint(out)}
    inner = _given(norm=norm, budget=budget, steps=steps, positives=positives)
    settings |= {"inversion": Inversion(**inner)} if inner else {}
    settings |= _given(words=words, epochs=epochs, warmup=warmup, lr=lr)
    settings |= _given(weight_noisy=weight_noisy, weight_bd=weight_bd, weight_align=weight_align)
    defense = CBPT(**settings) if aim is None else CBPT.aimed(aim, **settings)
    subject = attacked(model, data, attack, target, images, seed, device, aim)
    _tuned("cbpt", defense, subject, tune_on, None, False, seed, out, force, as_json, clock)


def linear_probe(
    model: Model,
    data: Data = None,
    tune_on: TuneOn = None,
    attack: Attack = None,
    target: Target = None,
    images: Images = None,
    shots: Shots = 16,
    solver: Annotated[str, typer.Option(help="sgd (the paper's) or logistic (scikit-learn's).")] = "sgd",
    epochs: Annotated[int, typer.Option(help="Of SGD.")] = 40,
    batch_size: BatchSize = 32,
    lr: Annotated[
        float, typer.Option(help="Constant learning rate of SGD, for losses averaged over the batch.")
    ] = 0.01,
    out: Out = None,
    seed: Seed = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Linear probe: a linear layer on the image features in the place of the classes' texts."""
    from ..linear_probe import LinearProbe

    clock = Clock()
    settings: dict[str, Any] = {"solver": solver, "shots": shots, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    subject = attacked(model, data, attack, target, images, seed, device)
    defense = LinearProbe(**settings, seed=seed)
    _tuned("linear-probe", defense, subject, tune_on, None, False, seed, out, force, as_json, clock)


def _given(**options: Any) -> dict[str, Any]:
    """Options that were given, where each way of tuning has its own defaults."""
    return {key: value for key, value in options.items() if value is not None}


def _tuned(
    name: str,
    defense: RVPT | CBPT | LinearProbe,
    subject: Subject,
    tune_on: str | None,
    template: str | None,
    without_target: bool,
    *run: Any,
) -> None:
    """Tune on a few pictures and compare; ``run`` is the rest of what :func:`defend` takes."""
    from ..few_shot import in_order, training_pictures
    from ..rvpt import RVPT
    from ..tuning import timed

    without = (subject.target,) if without_target and subject.target is not None else ()
    train = training_pictures(
        tune_on or subject.spec,
        subject.model.visual.image_size,
        run[0],
        defense.shots,
        template=template,
        measured=subject.spec,
    )
    if not isinstance(defense, RVPT):  # visual prompts carry over to other classes
        train = in_order(train, subject.data.test.class_names)

    def fit() -> Fitted:
        if isinstance(defense, RVPT):
            seconds = timed(defense, lambda: defense.fit(subject.model, train, without=without))
        else:
            seconds = timed(defense, lambda: defense.fit(subject.model, train))
        settings = {"tuned_on": train.name, "without": without, **defense.settings()}
        settings |= {"parameters": defense.parameters, "tuning_seconds": round(seconds, 1)}
        if isinstance(defense, RVPT):
            settings["blocks"] = defense.prompts_.blocks
        pictures = len(defense.chosen_)
        rows = [("tuned", f"{pictures} pictures, {defense.parameters:,} parameters, {seconds:.0f} s")]
        history = getattr(defense, "history_", [])
        for key in history[-1] if history else ():
            first = next(epoch[key] for epoch in history if key in epoch)  # some begin after a warm-up
            if key != "seconds":
                rows.append((key.replace("_", " "), f"{first:.3f}  ->  {history[-1][key]:.3f}"))
        kept = "probe" if name == "linear-probe" else "prompts"
        counts = {"tuned": pictures}
        return Fitted(defense, settings, counts, rows=rows, save=lambda folder: defense.save(folder / kept))

    defend(name, subject, fit, *run)
