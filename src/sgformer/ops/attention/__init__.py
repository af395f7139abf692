"""Attention of many queries to few keys, without key means."""

from .api import attention

__all__ = ["attention"]
