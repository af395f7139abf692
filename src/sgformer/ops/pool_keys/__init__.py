"""Key tokens averaged over cells, so that a budget holds."""

from .api import pool_keys
from .reference import cell_side

__all__ = ["cell_side", "pool_keys"]
