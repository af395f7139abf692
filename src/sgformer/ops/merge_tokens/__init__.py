"""Tokens ranked by significance, cut into bands, merged in groups: many groups for the salient ones."""

from .api import cut_bands, group_factor, merge_tokens, rank_tokens

__all__ = ["cut_bands", "group_factor", "merge_tokens", "rank_tokens"]
