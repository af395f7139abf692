"""`pool_keys` for `torch.export`, where the grid's height and width may be unknown."""

from typing import Any

import torch
from torch import Tensor

from ..group_tokens.exportable import as_size
from . import reference


def pool(keys: Tensor, budget: int | None) -> tuple[Tensor, Any]:
    """Compute `reference.pool`, also for an open size."""
    h, w = keys.shape[1:3]
    if budget is None or (isinstance(h, int) and isinstance(w, int)):
        return reference.pool(keys, budget)
    side = count_side(h, w, budget)
    return pool_cells(keys, side), side


def count_side(height: Any, width: Any, budget: int) -> Tensor:
    """The side of the cells that `pool_keys` searches, as a tensor without dimensions."""
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
