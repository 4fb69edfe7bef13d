"""``clip-decomp export``: a defended model for those who do not have this package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clip_decomp.cli.run import Clock, Json, Model, Seed, finish
from clip_decomp.results import Results, scale_of

from .subjects import own_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from clip_decomp.model import HookedCLIP

    from ..exporting.graph import Defended

_NOISE = 4

Folder = Path | None


def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder to write: a new one, an empty one, or an earlier export.")],
    form: Annotated[str, typer.Option("--format", help="open-clip, hugging-face or onnx.")] = "onnx",
    rvpt: Annotated[Folder, typer.Option(help="OUT/prompts of 'defend rvpt' or 'vpt'.")] = None,
    cbpt: Annotated[Folder, typer.Option(help="OUT/prompts of 'defend cbpt'.")] = None,
    linear_probe: Annotated[Folder, typer.Option(help="OUT/probe of 'defend linear-probe'.")] = None,
    decomp_rep: Annotated[Folder, typer.Option(help="OUT/repair of 'defend decomp-rep'.")] = None,
    guard: Annotated[Folder, typer.Option(help="OUT of 'guard calibrate' or 'defend guard'.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Text file with a class name a line: ONNX gets zero-shot logits.")
    ] = None,
    template: Annotated[str, typer.Option(help="Template of prompts, '{}' the class.")] = "a photo of a {}.",
    images: Annotated[
        str | None, typer.Option(help="Pictures to check with: a folder or data; the card's, or noise, by default.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many of them.")] = 12,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write a model, with a defense or as it is, for open_clip, Hugging Face or ONNX, and check its outputs.

    A fine-tuned model is its own --model: OUT/model of 'defend finetune' or 'cleanclip'. Prompts, classes and probes
    go beside the weights in all forms. Repairs and guards compute something on every image: ONNX alone holds them.
    """
    from clip_decomp.cli.weights import open_model
    from clip_decomp.data.unlabelled import read_class_names

    from ..exporting import export as write

    clock = Clock()
    given = {"rvpt": rvpt, "cbpt": cbpt, "linear-probe": linear_probe, "decomp-rep": decomp_rep, "guard": guard}
    chosen = _only({name: folder for name, folder in given.items() if folder is not None})
    hooked = open_model(model, "cpu")
    defended = hooked if chosen is None else _opened(*chosen, hooked)
    names = None if classes is None else read_class_names(classes)
    pixels = _pictures(hooked, images, count, seed)
    done = write(defended, out, form, pixels, names, (template,))  # type: ignore[arg-type]
    defense = "none" if chosen is None else chosen[0]
    settings = {"model": hooked.name, "defense": defense, "format": form, "classes": len(names or ())}
    counts = {"images": done.images} | ({} if done.flagged is None else {"flagged": done.flagged})
    scale = scale_of(hooked.card.get("data", "unknown"))
    metrics = {f"{scale}/clean/{defense}/difference;output={name}": each for name, each in done.differences.items()}
    rows = [("written", f"{out}, {form}, {defense}")]
    checked = f"{done.images} pictures" + ("" if done.flagged is None else f", {done.flagged} of them flagged")
    rows.append(("checked on", checked))
    rows += [(f"largest difference of {name}", f"{each:.1e} of its size") for name, each in done.differences.items()]
    finish(Results("export", scale, seed, settings, counts, metrics, clock()), None, as_json, rows)


def _only(given: dict[str, Path]) -> tuple[str, Path] | None:
    from clip_decomp.errors import SettingError

    if len(given) > 1:
        raise SettingError(f"One defense is exported at a time, not {' and '.join(f'--{name}' for name in given)}.")
    return next(iter(given.items()), None)


def _opened(name: str, folder: Path, model: HookedCLIP) -> Defended:
    """A defense that was saved for the model."""
    from .. import CBPT, RVPT, DecompRep, DecompRepTotal, Guard, LinearProbe
    from ..stored_repair import effect_of

    if name == "decomp-rep":
        return (DecompRep if effect_of(folder) == "direct" else DecompRepTotal).load(folder, model)
    kinds = {"rvpt": RVPT, "cbpt": CBPT, "linear-probe": LinearProbe, "guard": Guard}
    return kinds[name].load(folder, model)


def _pictures(model: HookedCLIP, images: str | None, count: int, seed: int) -> Tensor:
    """Pictures, and a little noise, which a guard flags; noise alone where nobody says where pictures are."""
    import torch

    from clip_decomp.data import open_data

    side, source = model.visual.image_size, torch.Generator().manual_seed(seed)
    own = model.card.get("data")
    if images is not None:
        found = own_pictures(model, images, count, seed).pixels
    elif own is not None and scale_of(own) == "world":
        found = open_data(own, side, seed, count).test.load()[0].float() / 255
    else:
        found = torch.empty(0, 3, side, side)
    noise = torch.rand(_NOISE if len(found) else count, 3, side, side, generator=source)
    return torch.cat([found, noise])
