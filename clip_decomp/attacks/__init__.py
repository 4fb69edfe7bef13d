"""Backdoor attacks: triggers, poisoning, poisoned fine-tuning, and the evaluator."""

from .triggers import SIG, TRIGGERS, BadNet, Blended, Kitty, Reflection, Trigger, WaNet, make_trigger

__all__ = ["SIG", "TRIGGERS", "BadNet", "Blended", "Kitty", "Reflection", "Trigger", "WaNet", "make_trigger"]
