"""Tokens ranked by significance, cut into bands, merged in groups: many groups for the salient ones."""

from .api import cut_bands, group_factor, merge_tokens, rank_tokens
from .spending import Spending, spend_tokens

__all__ = ["Spending", "cut_bands", "group_factor", "merge_tokens", "rank_tokens", "spend_tokens"]
