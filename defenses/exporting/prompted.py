"""Deep visual prompts on a plain open_clip or Hugging Face image tower. Needs torch and safetensors, nothing else.

This file is copied beside the prompts that it reads, so that they can be used without clip-decomp:

    clip = open_clip.create_model("local-dir:FOLDER").eval()
    attach(clip.visual.transformer.resblocks, "FOLDER/prompts")

    clip = CLIPModel.from_pretrained("FOLDER").eval()
    attach(clip.vision_model.encoder.layers, "FOLDER/prompts")

Every prompted block reads ``[class token, patches, prompts]``, and what it makes of the prompts is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def attach(blocks: Sequence[nn.Module], folder: str | Path) -> list[Any]:
    """Let blocks see their prompts from now on; ``remove()`` of the handles that are returned takes them off."""
    card = json.loads((Path(folder) / "prompts.json").read_text())
    prompts = load_file(Path(folder) / "prompts.safetensors")["prompts"]
    handles = []
    for layer, own in zip(card["blocks"], prompts, strict=True):
        before, behind = _around(own)
        handles.append(blocks[layer].register_forward_pre_hook(before))
        handles.append(blocks[layer].register_forward_hook(behind))
    return handles


def _around(own: Tensor) -> tuple[Callable[..., Any], Callable[..., Any]]:
    def before(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens = inputs[0]
        return (torch.cat([tokens, own.to(tokens).expand(len(tokens), -1, -1)], dim=1), *inputs[1:])

    def behind(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0][:, : -len(own)], *output[1:])
        return output[:, : -len(own)]

    return before, behind
