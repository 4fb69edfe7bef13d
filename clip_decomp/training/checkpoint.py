"""Checkpoints of a run as safetensors plus JSON: weights, optimizer states, step and log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


def save_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, history: list[dict]
) -> None:
    """Write the state to ``folder``; an interrupt never leaves half a checkpoint."""
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
    scratch = folder / "checkpoint.json.tmp"
    scratch.write_text(json.dumps({"step": step, "tensors": target.name, "history": history}))
    os.replace(scratch, folder / "checkpoint.json")
    for old in previous:
        old.unlink()


def load_checkpoint(folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, list[dict]]:
    """Restore what :func:`save_checkpoint` wrote; returns the step and the log."""
    meta = json.loads((folder / "checkpoint.json").read_text())
    tensors = load_file(folder / meta["tensors"])
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
