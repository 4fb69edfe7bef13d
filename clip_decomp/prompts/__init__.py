"""Learnable prompts, hung on the towers' own hook points; the towers' weights stay as they are."""

from .classwise import ClassPrompts
from .deep import DeepVisualPrompts

__all__ = ["ClassPrompts", "DeepVisualPrompts"]
