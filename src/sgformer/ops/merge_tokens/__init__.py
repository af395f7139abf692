"""Tokens merged to a short list: many groups for the salient ones."""

from .api import merge_tokens
from .spending import Spending, spend_tokens

__all__ = ["Spending", "merge_tokens", "spend_tokens"]
