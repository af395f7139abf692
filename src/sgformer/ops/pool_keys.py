"""Key tokens averaged over cells, so that a budget holds."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Backend, choose, never, unless_exporting
from .group_tokens import as_size


def pool_keys(keys: Tensor, budget: int | None, *, backend: str = "auto") -> tuple[Tensor, int]:
    """Averages a grid of key tokens over `t x t` cells, edge cells over what exists, so that at most `budget` remain.

    Args:
        keys: the grid.
        budget: the most tokens that there may be; None for any number.
        backend: `"reference"`, `"exportable"` for exported programs, or `"auto"`.

    Returns:
        The pooled grid, and `t`, the smallest side of a cell that keeps to the budget.

    Shape:
        - keys: `(B, h, w, c)`
        - returns: `(B, ceil(h / t), ceil(w / t), c)`

    Example:
        >>> import torch
        >>> pooled, t = pool_keys(torch.ones(1, 28, 42, 8), 196)
        >>> pooled.shape, t
        (torch.Size([1, 10, 14, 8]), 3)
    """
    return choose("pool_keys", BACKENDS, backend, keys, budget).run(keys, budget)


def cell_side(h: int, w: int, budget: int | None) -> int:
    """The smallest side of the cells of a grid `(h, w)` such that there are at most `budget`."""
    t = 1
    while budget is not None and -(-h // t) * -(-w // t) > budget:
        t += 1
    return t


def _pooled(keys: Tensor, budget: int | None) -> tuple[Tensor, int]:
    """The definition."""
    t = cell_side(keys.shape[1], keys.shape[2], budget)
    if t == 1:
        return keys, 1
    pooled = F.avg_pool2d(keys.permute(0, 3, 1, 2), t, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1), t


def _of_open_size(keys: Tensor, budget: int | None) -> tuple[Tensor, Any]:
    """For `torch.export`, where height and width may be unknown."""
    h, w = keys.shape[1:3]
    if budget is None or (isinstance(h, int) and isinstance(w, int)):
        return _pooled(keys, budget)
    side = count_side(h, w, budget)
    return pool_cells(keys, side), side


def count_side(height: Any, width: Any, budget: int) -> Tensor:
    """The side that `cell_side` searches, as a tensor without dimensions."""
    tried = torch.arange(1, height + width)
    rows, columns = ((torch.full_like(tried, length) + tried - 1) // tried for length in (height, width))
    return (rows * columns > budget).sum() + 1


def pool_cells(keys: Tensor, side: Tensor) -> Tensor:
    """Averages a grid of keys `(B, h, w, c)` over cells whose side is computed, edge cells over what exists."""
    h, w = keys.shape[1:3]
    t = as_size(side)
    rows, columns = (_cells(length, (length + t - 1) // t, side, like=keys) for length in (h, w))
    pooled = torch.einsum("ph,bhwc->bpwc", rows, keys)
    return torch.einsum("qw,bpwc->bpqc", columns, pooled)


def _cells(length: Any, cells: Any, side: Tensor, *, like: Tensor) -> Tensor:
    """The matrix `(cells, length)` that averages stretches of `side` places, the last over what exists."""
    belongs = torch.arange(length, device=like.device) // side == torch.arange(cells, device=like.device).unsqueeze(1)
    belongs = belongs.to(like.dtype)
    return belongs / belongs.sum(1, keepdim=True)


# The most preferred first.
BACKENDS = {"exportable": Backend(_of_open_size, never, unless_exporting), "reference": Backend(_pooled, never, never)}
