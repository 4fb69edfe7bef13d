"""Learnable prompts, hung on the towers' own hook points; the towers' weights stay as they are."""

from .deep import DeepVisualPrompts

__all__ = ["DeepVisualPrompts"]
