"""The stem, from images to tokens, and the downsampling between stages."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..ops import resize_positions
from .segment import Segment


class Stem(Segment):
    """Images to tokens at a quarter of their height and width, with learned position embeddings.

    The norms have one group: mean and variance are those of an image's whole map.

    Args:
        in_chans: channels of the image.
        channels: `c` of the first stage.
        grid_size: (height, width) of the grid of position embeddings; for maps of another size it is resized.

    Shape:
        - x: `(B, in_chans, height, width)`
        - returns: `(B, c, ceil(height / 4), ceil(width / 4))`
    """

    def __init__(self, in_chans: int, channels: int, *, grid_size: tuple[int, int], device=None, dtype=None) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.grid_size = grid_size
        self.conv1 = nn.Conv2d(in_chans, channels, 3, stride=2, padding=1, bias=False, **dd)
        self.norm1 = nn.GroupNorm(1, channels, **dd)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False, **dd)
        self.norm2 = nn.GroupNorm(1, channels, **dd)
        self.conv3 = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False, **dd)
        self.norm3 = nn.GroupNorm(1, channels, **dd)
        self.norm = nn.LayerNorm(channels, eps=1e-5, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, grid_size[0] * grid_size[1], channels, **dd))

    def plain(self, x: Tensor) -> Tensor:
        """Convolutions, norm and position embeddings."""
        x = self.embed(x).permute(0, 2, 3, 1)
        return (self.norm(x) + self.positions(x)).permute(0, 3, 1, 2)

    def embed(self, x: Tensor) -> Tensor:
        """The tokens without norm and positions, `(B, c, H, W)`."""
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))

    def positions(self, x: Tensor) -> Tensor:
        """The positions `(1, H, W, c)` of a map `(B, H, W, c)`, resized if the grid is of another size."""
        H, W = x.shape[1:3]
        return resize_positions(self.pos_embed, self.grid_size, (H, W)).unflatten(1, (H, W)).to(x.dtype)


class Downsample(Segment):
    """Halves height and width between two stages, by a depthwise convolution between two 1x1 ones.

    The norms have one group: mean and variance are those of an image's whole map.

    Args:
        channels: of the map that comes in.
        out_channels: of the map that goes out.

    Shape:
        - x: `(B, channels, H, W)`
        - returns: `(B, out_channels, ceil(H / 2), ceil(W / 2))`
    """

    def __init__(self, channels: int, out_channels: int, *, device=None, dtype=None) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        c = out_channels
        self.conv1 = nn.Conv2d(channels, c, 1, bias=False, **dd)
        self.norm1 = nn.GroupNorm(1, c, **dd)
        self.conv2 = nn.Conv2d(c, c, 3, stride=2, padding=1, groups=c, bias=False, **dd)
        self.norm2 = nn.GroupNorm(1, c, **dd)
        self.conv3 = nn.Conv2d(c, c, 1, bias=False, **dd)
        self.norm3 = nn.GroupNorm(1, c, **dd)

    def plain(self, x: Tensor) -> Tensor:
        """Three convolutions, the first two followed by a norm and GELU, the last by a norm."""
        x = F.gelu(self.norm1(self.conv1(x)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return self.norm3(self.conv3(x))
