"""Muon for hidden matrices, AdamW for everything else.

Example:
    >>> from .architecture import Architecture, build
    >>> clip = build(Architecture(layers=1, width=32, heads=2))
    >>> [type(each).__name__ for each in make_optimizers(clip, TrainSettings(steps=1, muon_lr=2e-3))]
    ['AdamW', 'Muon']
"""

from __future__ import annotations

import torch
from open_clip.model import CLIP

from .settings import TrainSettings


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
        muon = torch.optim.Muon(
            hidden, lr=settings.muon_lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        for group in muon.param_groups:
            group["peak"] = settings.muon_lr
        optimizers.append(muon)
    return optimizers
