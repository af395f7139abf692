"""Tokens in the groups in which they are merged."""

from .api import group_tokens
from .bands import cut_bands, group_factor

__all__ = ["cut_bands", "group_factor", "group_tokens"]
