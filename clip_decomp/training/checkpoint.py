"""Checkpoints of a run as safetensors plus JSON: weights, optimizer states, step and log, and what run it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..drafts import drafted
from ..errors import SettingError


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    history: list[dict],
    run: Mapping[str, Any],
) -> None:
    """Write the state to ``folder``; an interrupt never leaves half a checkpoint.

    Args:
        run: settings and whatever else makes this run another than others, as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer/{index}/{key}/{name}"] = torch.as_tensor(value).contiguous()
    # The tensors' name carries the step, so the JSON that is swapped in last always points at a whole file.
    target = folder / f"checkpoint-{step}.safetensors"
    save_file(tensors, target)
    previous = set(folder.glob("checkpoint-*.safetensors")) - {target}
    with drafted(folder / "checkpoint.json") as draft:
        draft.write_text(json.dumps({"step": step, "tensors": target.name, "history": history, "run": run}))
    for old in previous:
        old.unlink()


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], run: Mapping[str, Any]
) -> tuple[int, list[dict]]:
    """Restore what :func:`save_checkpoint` wrote; returns the step and the log.

    Raises:
        SettingError: it belongs to another run.
    """
    file = folder / "checkpoint.json"
    try:
        meta = json.loads(file.read_text())
        known, tensors = meta.get("run", {}), load_file(folder / meta["tensors"])
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise SettingError(f"{file} is damaged ({error}): delete {folder} to start again.") from error
    _require_same_run(folder, known, json.loads(json.dumps(run)))
    model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    for index, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        prefix = f"optimizer/{index}/"
        state["state"] = {}
        for name, value in tensors.items():
            if name.startswith(prefix):
                key, field = name.removeprefix(prefix).split("/")
                state["state"].setdefault(int(key), {})[field] = value
        optimizer.load_state_dict(state)
    return meta["step"], meta["history"]


def save_labelled(file: Path, tensors: Mapping[str, Tensor], label: str) -> None:
    """Write tensors that a run goes on from; ``label`` says of which run. An interrupt never leaves half a file."""
    with drafted(file) as draft:
        save_file(dict(tensors), draft, {"label": label})


def load_labelled(file: Path, label: str, device: str = "cpu") -> dict[str, Tensor] | None:
    """What :func:`save_labelled` wrote for the run of that label; None if there is nothing, or it is another run's."""
    if not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        known = (opened.metadata() or {}).get("label") == label
    return load_file(file, device=device) if known else None


def _require_same_run(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    differing = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    if differing:
        changes = "; ".join(f"{key} is {_short(there, key)} there and {_short(here, key)} here" for key in differing)
        raise SettingError(f"{folder} holds a checkpoint of another run ({changes}): delete it or use another folder.")


def _short(settings: dict[str, Any], key: str) -> str:
    return shorten(json.dumps(settings.get(key)), 80)
