"""FT and CleanCLIP on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from clip_decomp.cli.run import Attack, Clock, Data, Device, Force, Images, Json, Model, Out, Seed, Target

from .subjects import Fitted, attacked, checkpoint, defend

Pairs = Annotated[
    str | None, typer.Option(help="Clean pairs, as --data or captioned files; the test data's by default.")
]
Preset = Annotated[str, typer.Option(help="tiny, cleanclip or rvpt: where the settings start from.")]
Count = Annotated[int | None, typer.Option(help="How many pairs.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over them.")]
BatchSize = Annotated[int | None, typer.Option(help="Pairs a step.")]
Rate = Annotated[float | None, typer.Option("--lr", help="AdamW's peak learning rate.")]


def command(kind: str) -> Callable[..., None]:
    """The command of a defense that fine-tunes the model: ``FineTune`` or ``CleanCLIP``."""

    def fine_tune(
        model: Model,
        pairs: Pairs = None,
        preset: Preset = "tiny",
        count: Count = None,
        epochs: Epochs = None,
        batch_size: BatchSize = None,
        lr: Rate = None,
        data: Data = None,
        attack: Attack = None,
        target: Target = None,
        images: Images = None,
        out: Out = None,
        seed: Seed = 0,
        device: Device = "cpu",
        force: Force = False,
        as_json: Json = False,
    ) -> None:
        from clip_decomp.models.loading import save_folder
        from clip_decomp.training.streams import pair_stream

        from .. import fine_tune
        from ..fine_tune import CLEAN_STREAM_SEED
        from ..tuning import timed

        clock = Clock()
        settings = {"pairs": count, "epochs": epochs, "batch_size": batch_size, "lr": lr}
        changes = {key: value for key, value in settings.items() if value is not None}
        defense: fine_tune.FineTune = getattr(fine_tune, kind).preset(
            preset, **changes, seed=seed, checkpoint=checkpoint(out), progress=not as_json
        )
        subject = attacked(model, data, attack, target, images, seed, device)
        where, side = pairs or subject.spec, subject.model.visual.image_size
        stream, _ = pair_stream(where, side, CLEAN_STREAM_SEED + seed, measured=subject.spec)

        def fit() -> Fitted:
            seconds = timed(defense, lambda: defense.fit(subject.model, stream))
            settings = {**defense.settings(), "clean_pairs": where, "parameters": defense.parameters}
            rows = [("tuned", f"{defense.pairs} pairs, {defense.parameters:,} parameters, {seconds:.0f} s")]
            return Fitted(
                defense,
                settings | {"tuning_seconds": round(seconds, 1)},
                {"tuned": defense.pairs},
                rows=rows,
                save=lambda folder: save_folder(defense.tuned_, folder / "model", defense.tuned_.card),
            )

        defend(defense.name, subject, fit, seed, out, force, as_json, clock)

    return fine_tune
