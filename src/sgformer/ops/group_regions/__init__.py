"""Tokens in squares of the map, small ones where it is significant."""

from .api import group_regions, spend_regions
from .cutting import Cut, cut_map

__all__ = ["Cut", "cut_map", "group_regions", "spend_regions"]
