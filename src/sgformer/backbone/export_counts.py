"""What depends on a picture's size, as numbers that an exported file computes: factors, cells, and matrices.

What the model searches with a loop over candidates, or leaves to PyTorch, is counted or written out here, since height
and width are not known when a file is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import pool_keys
from ..ops.group_tokens.bands import Band, group_factor


def factor_for(bands: list[Band], budget: int | None) -> Any:
    """As `group_factor`, also where the lengths of bands are symbols: a number that the file computes."""
    if budget is None or all(isinstance(band.length, int) for band in bands):
        return group_factor(bands, budget)
    return _as_size(count_factor(bands, budget))


def count_factor(bands: list[Band], budget: int) -> Tensor:
    """The number that `group_factor` searches, as a tensor without dimensions: one more than the factors that fail.

    The longer groups are, the fewer they are. So the factors that fail are all those below the answer.
    """
    most = sum(band.length // band.group_size + 1 for band in bands)  # with it each band is one group
    tried = torch.arange(1, most + 1)
    groups = torch.zeros_like(tried)
    for band in bands:
        members = band.group_size * tried
        groups = groups + (torch.full_like(tried, band.length) + members - 1) // members
    return (groups > budget).sum() + 1


def count_side(height: Any, width: Any, budget: int) -> Tensor:
    """The side of the cells that `pool_keys` searches, as a tensor without dimensions."""
    tried = torch.arange(1, height + width)
    rows, columns = ((torch.full_like(tried, length) + tried - 1) // tried for length in (height, width))
    return (rows * columns > budget).sum() + 1


def _as_size(number: Tensor) -> Any:
    """A computed number, at least 1, as the length of something."""
    size = number.item()
    torch._check(size >= 1)
    return size


def pool(keys: Tensor, budget: int | None) -> tuple[Tensor, Any]:
    """As `pool_keys`, also for an open size."""
    h, w = keys.shape[1:3]
    if budget is None or (isinstance(h, int) and isinstance(w, int)):
        return pool_keys(keys, budget)
    side = count_side(h, w, budget)
    return pool_cells(keys, side), side


def pool_cells(keys: Tensor, side: Tensor) -> Tensor:
    """Averages a grid of keys `(B, h, w, c)` over cells whose side is computed, edge cells over what exists."""
    h, w = keys.shape[1:3]
    t = _as_size(side)
    rows, columns = (_cells(length, (length + t - 1) // t, side, like=keys) for length in (h, w))
    pooled = torch.einsum("ph,bhwc->bpwc", rows, keys)
    return torch.einsum("qw,bpwc->bpqc", columns, pooled)


def _cells(length: Any, cells: Any, side: Tensor, *, like: Tensor) -> Tensor:
    """The matrix `(cells, length)` that averages stretches of `side` places, the last over what exists."""
    belongs = torch.arange(length, device=like.device) // side == torch.arange(
        cells, device=like.device
    ).unsqueeze(1)
    belongs = belongs.to(like.dtype)
    return belongs / belongs.sum(1, keepdim=True)


def resize_matrix(old: int, new: Any, *, like: Tensor) -> Tensor:
    """What PyTorch's bicubic resize of one side computes, as a matrix `(new, old)`."""
    a = -0.75
    dtype = torch.promote_types(like.dtype, torch.float32)
    # Place i of the new side is (2i + 1) * old / (2 * new) - 1 / 2; in integers, which all runtimes divide alike.
    twice = 2 * torch.full((1,), new, device=like.device)
    where = (2 * torch.arange(new, device=like.device) + 1) * old + twice // 2  # over `twice`, and 1 too high
    first = where // twice
    t = (where - first * twice).to(dtype) / twice.to(dtype)
    first = (first - 1).to(dtype)
    near = [1 + t, t, 1 - t, 2 - t]
    weights = [
        ((a * n - 5 * a) * n + 8 * a) * n - 4 * a if far else ((a + 2) * n - (a + 3)) * n * n + 1
        for n, far in zip(near, (True, False, False, True), strict=True)
    ]
    column = torch.arange(old, dtype=dtype, device=like.device)
    places = [(first + k).clamp(0, old - 1) for k in (-1, 0, 1, 2)]
    taps = [
        (place.unsqueeze(1) == column).to(dtype) * weight.unsqueeze(1)
        for place, weight in zip(places, weights, strict=True)
    ]
    return (taps[0] + taps[1] + taps[2] + taps[3]).to(like.dtype)
