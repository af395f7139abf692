"""Tokens merged to a short list: small groups where they are significant, large ones elsewhere."""

from .api import merge_tokens
from .spending import Spending, spend_tokens

__all__ = ["Spending", "merge_tokens", "spend_tokens"]
