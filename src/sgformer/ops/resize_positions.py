"""Learned positions for a map of another size."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .dispatch import Backend, choose, is_exporting, never


def resize_positions(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], *, backend: str = "auto") -> Tensor:
    """Resizes a grid of positions bicubically, in float32 or better; untouched where the size is the same.

    Args:
        pos_embed: positions, row-major.
        old: (height, width) of the grid that they are of.
        new: (height, width) of the grid that is wanted.
        backend: `"reference"`, `"products"` for a CPU and for exported programs, or `"auto"`.

    Shape:
        - pos_embed: `(1, N, c)`
        - returns: `(1, N', c)`

    Example:
        >>> import torch
        >>> resize_positions(torch.randn(1, 56 * 56, 8), (56, 56), (24, 32)).shape
        torch.Size([1, 768, 8])
    """
    args = (pos_embed, old, new)
    return choose("resize_positions", BACKENDS, backend, *args).run(*args)


def _interpolated(pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The definition."""
    if old == new:
        return pos_embed
    grid = pos_embed.unflatten(1, old).permute(0, 3, 1, 2)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    grid = F.interpolate(grid, new, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)


def _by_products(pos_embed: Tensor, old: tuple[int, int], new: tuple[Any, Any]) -> Tensor:
    """Two matrix products, within rounding: faster on a CPU than PyTorch's own resize, which few runtimes have."""
    if all(isinstance(side, int) for side in new) and old == tuple(new):
        return pos_embed
    grid = pos_embed.squeeze(0).unflatten(0, old)  # (rows, columns, c)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))
    down, right = (resize_matrix(before, after, like=grid) for before, after in zip(old, new, strict=True))
    resized = right @ (down @ grid.flatten(1)).unflatten(1, grid.shape[1:])
    return resized.flatten(0, 1).unsqueeze(0).to(pos_embed.dtype)


def _why_products_are_slow(pos_embed: Tensor, *sizes: Any) -> str | None:
    if is_exporting():
        return None
    if torch.compiler.is_compiling():
        return "torch.compile makes one kernel of PyTorch's"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on, under which products lose precision"
    return None if pos_embed.device.type == "cpu" else "PyTorch's is fast on a GPU"


def resize_matrix(old: int, new: Any, *, like: Tensor) -> Tensor:
    """Return PyTorch's bicubic resize of one side as a matrix `(new, old)`."""
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


# The most preferred first.
BACKENDS = {
    "products": Backend(_by_products, never, _why_products_are_slow),
    "reference": Backend(_interpolated, never, never),
}
