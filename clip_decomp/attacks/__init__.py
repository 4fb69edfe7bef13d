"""Backdoor attacks: triggers, poisoning, poisoned fine-tuning, and why an attack did not take."""

from .triggers import (
    SIG,
    TRIGGERS,
    BadCLIP,
    BadNet,
    Blended,
    Kitty,
    LabelConsistent,
    Reflection,
    Trigger,
    TrojVQA,
    WaNet,
    make_trigger,
)

__all__ = [
    "SIG",
    "TRIGGERS",
    "BadCLIP",
    "BadNet",
    "Blended",
    "Kitty",
    "LabelConsistent",
    "Reflection",
    "Trigger",
    "TrojVQA",
    "WaNet",
    "make_trigger",
]
