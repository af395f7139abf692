"""The definition of `resize_positions` in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positions of another grid; see `resize_positions`.

    Shape:
        - pos_embed: `(1, N, c)`
        - returns: `(1, N', c)`
    """
    if old == new:
        return pos_embed
    grid = pos_embed.unflatten(1, old).permute(0, 3, 1, 2)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = F.interpolate(grid, new, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
