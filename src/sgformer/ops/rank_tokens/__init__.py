"""Tokens in the order of their significance."""

from .api import rank_tokens

__all__ = ["rank_tokens"]
