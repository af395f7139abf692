"""Linear maps, as convolutions where PyTorch's products are slow."""

from .api import linear, weight_gradient

__all__ = ["linear", "weight_gradient"]
