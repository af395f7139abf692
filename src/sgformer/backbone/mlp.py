"""The MLP of a block."""

from typing import Any

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .attention import convolve
from .segment import Segment


class ConvMlp(Segment):
    """The MLP of a block, with a depthwise convolution inside: `fc2(gelu(y + conv(y)))` of `y = fc1(x)`.

    Args:
        channels: `c`.
        hidden_channels: between the two projections.

    Shape:
        - x, returns: `(B, H, W, c)`
    """

    def __init__(self, channels: int, hidden_channels: int, *, device=None, dtype=None) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(channels, hidden_channels, **dd)
        self.conv = nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels, **dd)
        self.fc2 = nn.Linear(hidden_channels, channels, **dd)

    def plain(self, x: Tensor) -> Tensor:
        """Projection to hidden channels, depthwise convolution with residual, GELU, projection back."""
        y = self.fc1(x)
        return self.fc2(F.gelu(y + convolve(self.conv, y)))
