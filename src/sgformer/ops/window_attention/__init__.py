"""Attention within windows of a map that also reports what each token receives."""

from .api import explain_backends, window_attention

__all__ = ["explain_backends", "window_attention"]
