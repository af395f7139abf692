"""Key tokens averaged over cells, so that a budget holds."""

from .api import pool_keys

__all__ = ["pool_keys"]
