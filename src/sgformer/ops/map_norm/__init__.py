"""A norm over a whole map, all its tokens and channels together, with GELU in the same go."""

from .api import explain_backends, map_norm

__all__ = ["explain_backends", "map_norm"]
