"""Learned positions for a map of another size."""

from .api import resize_positions

__all__ = ["resize_positions"]
