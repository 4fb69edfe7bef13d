"""Muon for hidden matrices, AdamW for everything else.

torch's Muon orthogonalizes in bfloat16 whatever the machine. Where products of bfloat16 are emulated that takes more
than twice as long as the rest of a step, and :class:`Float32Muon` does the same in fp32.

Example:
    >>> from .architecture import Architecture, build
    >>> clip = build(Architecture(layers=1, width=32, heads=2))
    >>> adamw, muon = make_optimizers(clip, TrainSettings(steps=1, muon_lr=2e-3))
    >>> isinstance(muon, torch.optim.Muon)
    True
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor

from .lean import multiplies_bfloat16
from .settings import TrainSettings


class Float32Muon(torch.optim.Muon):
    """torch's Muon but for the precision of its Newton-Schulz iterations; both read each other's checkpoints."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step down the gradients that are there.

        Args:
            closure: not taken; it is there because optimizers have one.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    scale = get_lr_scale(parameter.shape, group["adjust_lr_fn"] or "original")
                    parameter.add_(self._direction(parameter, group), alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        return zeropower_via_newtonschulz(
            update, group["ns_steps"], [group["ns_coefficients"]], group["eps"], dtype=torch.float32
        )


def make_optimizers(model: CLIP, settings: TrainSettings) -> list[torch.optim.Optimizer]:
    """Optimizers of all weights that are not frozen; norms, biases and embeddings do not decay.

    Each group's ``peak`` is the learning rate that the schedule scales.
    """
    hidden, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if settings.muon_lr is not None and parameter.ndim == 2 and ".resblocks." in name:
            hidden.append(parameter)
        elif parameter.ndim >= 2 and "embedding" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay, "peak": settings.lr},
                {"params": plain, "weight_decay": 0.0, "peak": settings.lr},
            ],
            lr=settings.lr,
            betas=(0.9, 0.98),
        )
    ]
    if settings.muon_lr is not None:
        native = multiplies_bfloat16(model.logit_scale.device)
        muon = (torch.optim.Muon if native else Float32Muon)(
            hidden, lr=settings.muon_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        for group in muon.param_groups:
            group["peak"] = settings.muon_lr
        optimizers.append(muon)
    return optimizers
