"""The initial values of the released model."""

import math

import torch
import torch.nn as nn
from torch import Tensor

from .regional import RegionalAttention
from .stem import Stem


def init_released(module: nn.Module) -> None:
    """Initial values of the released model, for `Module.apply`.

    Weights of linear layers are drawn from a truncated normal distribution (standard deviation 0.02), those of
    convolutions from Kaiming's normal distribution (fan-out); biases are 0, weights of norms 1. Merging by regions,
    which the released model does not have, begins with means.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, RegionalAttention):  # after the layers in it, of which each is to begin as a mean
        for f in module.merge:
            assert isinstance(f, nn.Linear)
            nn.init.constant_(f.weight, 1 / f.in_features)
    elif isinstance(module, Stem):
        with torch.no_grad():
            module.pos_embed.copy_(sine_cosine_positions(module.pos_embed.shape[-1], module.grid_size))


def sine_cosine_positions(channels: int, grid_size: tuple[int, int]) -> Tensor:
    """The initial positions `(1, N, channels)`, float64: half of the channels tell the column, then half the row."""
    quarter = channels // 4
    frequency = 10000 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = (torch.arange(n, dtype=torch.float64)[:, None] * frequency for n in grid_size)
    row = torch.cat((row.sin(), row.cos()), 1)[:, None].expand(-1, grid_size[1], -1)
    column = torch.cat((column.sin(), column.cos()), 1)[None].expand(grid_size[0], -1, -1)
    return torch.cat((column, row), -1).reshape(1, -1, 4 * quarter)
