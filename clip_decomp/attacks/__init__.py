"""Backdoor attacks: triggers, poisoning, poisoned fine-tuning, and the evaluator."""

from .triggers import TRIGGERS, BadNet, Blended, Trigger, make_trigger

__all__ = ["TRIGGERS", "BadNet", "Blended", "Trigger", "make_trigger"]
