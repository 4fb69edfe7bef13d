"""Backdoor attacks: triggers, poisoning, poisoned fine-tuning, and why an attack did not take."""

from .triggers import (
    ISSBA,
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
    "ISSBA",
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
