"""``load`` itself, which finds out what it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
from torch import Tensor, nn

from ...errors import ModelError
from ...model import HookedCLIP
from .folders import CARD, load_folder
from .hugging_face import from_pretrained, from_transformers, is_folder
from .live import from_live
from .named import CONFIG, Asked, from_file, from_folder, from_hub, from_name
from .stated import Normalization, agree


def load(
    model: str | Path | nn.Module,
    pretrained: str | Path | None = None,
    *,
    tokenizer: Callable[[list[str]], Tensor] | None = None,
    quick_gelu: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    device: str = "cpu",
) -> HookedCLIP:
    """Load a CLIP and hook its towers.

    Args:
        model: a zoo name (``world/clean``); a folder of this project, of open_clip or of transformers; an open_clip
            name (``ViT-B-32``, ``hf-hub:OWNER/NAME``, ``local-dir:FOLDER``); a repository in transformers' form
            (``openai/clip-vit-base-patch32``); a file of weights whose shapes are those of one open_clip name, or one
            of OpenAI's archives; or a live model of open_clip or transformers.
        pretrained: for open_clip names: a tag (``openai``), a file of weights, or None for random weights.
        tokenizer: for a live model: its tokenizer; by default open_clip's usual one, or transformers' own.
        quick_gelu: the activation, where neither the name nor the weights say it.
        mean, std: the pixel normalization, where neither the name nor the weights say it.
        image_size: for open_clip names: another side of the pictures, to which positions are interpolated.
        device: where the weights go.

    Raises:
        ModelError: no such model, an unreadable or unsafe checkpoint, keys or shapes that do not fit, values that are
            not finite, a live model in training mode, or an activation or normalization that contradicts what the
            weights say, or that is not known and was not given.
        SettingError: a normalization that is none.
    """
    asked = Asked(quick_gelu, mean, std, image_size)
    if isinstance(model, nn.Module):
        if type(model).__module__.startswith("transformers."):
            return from_transformers(model, tokenizer, asked).to(device)
        return from_live(model, tokenizer, asked).to(device)
    return _from_words(model, pretrained, asked).to(device)


def _from_words(model: str | Path, pretrained: str | Path | None, asked: Asked) -> HookedCLIP:
    name = str(model)
    if name.replace("/", "-") in open_clip.list_models():  # ViT-B/32, as OpenAI writes it
        return from_name(name.replace("/", "-"), pretrained, asked)
    folder = Path(name.removeprefix("local-dir:"))
    other = folder.exists() or "/" in name or name.startswith(("hf-hub:", "local-dir:"))
    if pretrained is not None and other:
        raise ModelError(f"{name} brings its own weights: leave pretrained={str(pretrained)!r} out.")
    if name.startswith("hf-hub:"):
        return from_hub(name, asked)
    if folder.is_file():
        return from_file(folder, asked)
    if name.startswith("local-dir:") and not folder.is_dir():
        raise ModelError(f"{name}: there is no folder {folder}.")
    if folder.is_dir():
        return _from_folder(folder, asked, described=name.startswith("local-dir:"))
    if "/" in name:
        return _from_shelf_or_hub(name, asked)
    return from_name(name, pretrained, asked)


def _from_shelf_or_hub(name: str, asked: Asked) -> HookedCLIP:
    from ... import zoo

    shelves = {each.split("/")[0] for each in zoo.buildable()}
    owner, _, rest = name.partition("/")
    if zoo.available(name) or owner in shelves:
        return _carded(zoo.path(name), name, asked)
    if not owner or not rest or "/" in rest or owner in {".", "..", "~"}:
        raise ModelError(f"There is no file or folder {name!r}.")
    return from_pretrained(name, asked)


def _from_folder(folder: Path, asked: Asked, described: bool) -> HookedCLIP:
    """A folder of any kind; ``described`` ones are to be taken as open_clip's."""
    if (folder / CARD).is_file() and not described:
        return _carded(folder, None, asked)
    if (folder / CONFIG).is_file():
        return from_folder(folder, asked)
    if is_folder(folder):
        return from_pretrained(folder, asked)
    raise ModelError(
        f"{folder}: there is no {CARD} in it; point to a folder written by 'clip-decomp train', or to one with "
        f"open_clip's {CONFIG} or transformers' config.json."
    )


def _carded(folder: Path, name: str | None, asked: Asked) -> HookedCLIP:
    """A model of this project, which says everything itself."""
    if asked.quick_gelu or asked.image_size is not None:
        raise ModelError(f"{name or folder} says its activation (GELU) and image size itself: leave them out.")
    found = load_folder(folder, name)
    agree(Normalization(found.mean, found.std), asked.mean, asked.std, str(folder / CARD))
    return found
