"""Prompts on disk: one tensor and a card, without the model that they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from ..errors import ModelError

_WEIGHTS, _CARD = "prompts.safetensors", "prompts.json"
Prompts = TypeVar("Prompts", bound=nn.Module)


def write_prompts(folder: str | Path, values: Tensor, card: dict[str, Any]) -> None:
    """Write a tensor and what is known of it."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"prompts": values.detach().cpu().contiguous()}, folder / _WEIGHTS)
    (folder / _CARD).write_text(json.dumps(card, indent=1) + "\n")


def read_card(folder: str | Path) -> dict[str, Any]:
    """What is known of prompts.

    Raises:
        ModelError: the folder holds none.
    """
    try:
        return json.loads((Path(folder) / _CARD).read_text())
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no prompts: {_WEIGHTS} and {_CARD} are needed.") from error
    except ValueError as error:
        raise ModelError(f"The prompts in {folder} cannot be read ({type(error).__name__}: {error}).") from error


def read_prompts(
    folder: str | Path, make: Callable[[dict[str, Any]], Prompts], of: Callable[[Prompts], Tensor]
) -> tuple[Prompts, Tensor]:
    """Prompts as they are before tuning, made from their card, and the values that belong into the tensor ``of`` them.

    Raises:
        ModelError: not such a folder, damaged files, or values that do not fit or are not finite.
    """
    from safetensors.torch import load_file

    folder, card = Path(folder), read_card(folder)
    try:
        values = load_file(folder / _WEIGHTS)["prompts"]
        prompts = make(card)
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no prompts: {_WEIGHTS} and {_CARD} are needed.") from error
    except ModelError:
        raise
    except Exception as error:  # whatever a damaged file raises
        raise ModelError(f"The prompts in {folder} cannot be read ({type(error).__name__}: {error}).") from error
    expected = of(prompts).shape
    if values.shape != expected or not values.isfinite().all():
        raise ModelError(
            f"{folder / _WEIGHTS}: prompts must be finite and {list(expected)}, and are {list(values.shape)}."
        )
    return prompts, values
