"""Attention that also reports the mean weight that each key receives."""

from .api import explain_backends, key_mean_attention

__all__ = ["explain_backends", "key_mean_attention"]
